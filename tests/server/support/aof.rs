//! The commands in the append-only file.

use gpulock_testkit::Server;

/// The commands after the first `before`, with names in upper case and without SELECT.
pub(crate) fn commands_since(server: &Server, before: usize) -> Vec<Vec<String>> {
    let mut commands = server.aof().split_off(before);
    for words in &mut commands {
        words[0] = words[0].to_uppercase();
    }
    commands.retain(|words| words[0] != "SELECT");
    commands
}
