//! Clients that must not outlive the module: the server keeps pointers to our commands in
//! them, and would follow them after the module has unloaded.
//!
//! - A transaction that is open keeps the commands it queued, on every server.
//! - Redis 8 keeps each client's last command, to find it faster when it comes again.

use super::context::Context;

/// Closes the connections of such clients. Their next connection is like any other.
pub(super) fn close(context: Context<'_>) {
    let keeps_last = keeps_last_command(context);
    let lines = context.client_lines();
    for line in String::from_utf8_lossy(&lines).lines() {
        let field = |name: &str| {
            line.split(' ').find_map(|field| field.strip_prefix(name)?.strip_prefix('='))
        };
        let queued = field("multi").and_then(|n| n.parse::<i64>().ok()).unwrap_or(0);
        let last = field("cmd").unwrap_or_default().to_ascii_lowercase();
        if (queued > 0 || (keeps_last && last.starts_with("gpulock.")))
            && let Some(id) = field("id")
        {
            context.kill_client(id);
        }
    }
}

/// Redis 8 and later; Valkey does not.
fn keeps_last_command(context: Context<'_>) -> bool {
    let info = context.server_info();
    let info = String::from_utf8_lossy(&info);
    let major = |name: &str| {
        let version = info.lines().find_map(|line| line.strip_prefix(name))?;
        version.split('.').next()?.parse::<u32>().ok()
    };
    major("valkey_version:").is_none() && major("redis_version:") >= Some(8)
}
