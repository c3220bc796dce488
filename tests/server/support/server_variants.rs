//! Servers that notice the end of keys in different ways.

use gpulock_testkit::{Flavour, Server, call};

/// Starts servers one after the other, each with a description: with default settings, with
/// `hz 1`, and without active expiry.
pub(crate) fn server_variants(
    flavour: &Flavour,
) -> impl Iterator<Item = (&'static str, Server)> {
    ["default", "hz 1", "no active expiry"].into_iter().map(|variant| {
        let hz = if variant == "hz 1" { 1 } else { 10 };
        let server = flavour.server().arg("hz", hz).start();
        if variant == "no active expiry" {
            let set = call!(server.client(), "DEBUG", "SET-ACTIVE-EXPIRE", 0);
            assert_eq!(set, "OK");
        }
        (variant, server)
    })
}
