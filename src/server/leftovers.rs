//! Clients that must not outlive the module: the server keeps pointers to our commands in
//! them, and would follow them after the module has unloaded.
//!
//! - A transaction that is open keeps the commands it queued.
//! - Each client keeps its last command: `CLIENT LIST` prints its name, and Redis 8 looks there
//!   first when the command comes again.

use super::context::Context;

/// Closes the connections of such clients. Their next connection is like any other.
pub(super) fn close(context: Context<'_>) {
    let lines = context.client_lines();
    for line in String::from_utf8_lossy(&lines).lines() {
        let field = |name: &str| {
            line.split(' ').find_map(|field| field.strip_prefix(name)?.strip_prefix('='))
        };
        let queued = field("multi").and_then(|n| n.parse::<i64>().ok()).unwrap_or(0);
        let last = field("cmd").unwrap_or_default().to_ascii_lowercase();
        if (queued > 0 || last.starts_with("gpulock."))
            && let Some(id) = field("id")
        {
            context.kill_client(id);
        }
    }
}
