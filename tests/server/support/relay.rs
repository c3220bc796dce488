//! A script and a function that send a command and return its reply.

use gpulock_testkit::{Server, call};

/// The script, for EVAL.
pub(crate) const RELAY: &str = "return redis.call(unpack(ARGV))";

/// Loads the function `relay`, for FCALL.
pub(crate) fn load_relay(server: &Server) {
    let library = format!(
        "#!lua name=relay\n\
         redis.register_function('relay', function(_, ARGV) {RELAY} end)"
    );
    assert_eq!(call!(server.client(), "FUNCTION", "LOAD", library), "relay");
}
