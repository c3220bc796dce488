//! What must not outlive the module, because the server keeps pointers to its commands there
//! and would follow them after the module has unloaded.
//!
//! - An open transaction keeps the commands that it queued.
//! - Each client keeps its last command: `CLIENT LIST` prints its name, and Redis 8 looks there
//!   first when the command comes again.
//! - The rules of an ACL user name commands; four of the six servers that are tested abort when
//!   one of those is gone.
//!
//! The connections of such clients are closed. Where that is not possible the module stays.

use super::context::{Context, log_warning};
use super::needed_commands;

/// Whether the module may unload now; if not, the server's log says why. The server itself
/// replies only that the operation is not possible.
pub(crate) fn is_possible(context: Context<'_>) -> bool {
    let reason = obstacle(context);
    if let Some(reason) = &reason {
        log_warning(&format!("not unloaded: {reason}"));
    }
    reason.is_none()
}

fn obstacle(context: Context<'_>) -> Option<String> {
    // The transaction's own client cannot be closed, and may have queued more of our commands.
    if context.flags().in_script_or_transaction() {
        return Some("a transaction is being executed; unload outside MULTI".to_owned());
    }
    for name in [c"CLIENT", c"ACL"] {
        if !needed_commands::exists(context, name) {
            return Some(format!(
                "the server has no command {name:?}, so that what must not outlive the module \
                 cannot be found. Remove it from rename-command, or restart the server without \
                 the module"
            ));
        }
    }
    let user =
        context.acl_rules().into_iter().find_map(|rules| user_with_ours(&rules))?;
    Some(format!(
        "the rules of the ACL user \"{}\" name a GPULOCK command, and the server would abort. \
         Remove the command from the rules first: ACL SETUSER",
        user.escape_ascii()
    ))
}

/// The user of a line of `ACL LIST`, if its rules name a command of ours.
fn user_with_ours(rules: &[u8]) -> Option<Vec<u8>> {
    let mut words = rules.split(|byte| *byte == b' ');
    let user = words.nth(1)?;
    words.any(names_ours).then(|| user.to_vec())
}

/// `+gpulock.acquire`, also as the first rule of a selector.
fn names_ours(rule: &[u8]) -> bool {
    let rule = rule.strip_prefix(b"(").unwrap_or(rule);
    let command = rule.strip_prefix(b"+").or_else(|| rule.strip_prefix(b"-"));
    let prefix = command.and_then(|command| command.get(..OURS.len()));
    prefix.is_some_and(|prefix| prefix.eq_ignore_ascii_case(OURS))
}

const OURS: &[u8] = b"gpulock.";

/// Closes the connections of clients that must not outlive the module. Their next connection
/// is like any other.
pub(crate) fn close_clients(context: Context<'_>) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_whose_rules_name_a_command_of_ours() {
        for (rules, user) in [
            ("user w on #0f ~* -@all +gpulock.acquire", Some("w")),
            ("user w on ~* +@all -GPULOCK.FORCERELEASE", Some("w")),
            ("user w on ~* -@all (%R~x* -@all +gpulock.log)", Some("w")),
            ("user w on ~* -@all (+gpulock.log ~x)", Some("w")),
            ("user w on ~+gpulock.* &gpulock.* +@all", None),
            ("user gpulock.x on ~* +get", None),
            ("user w on +gpulocker", None),
            ("user", None),
        ] {
            let found = user_with_ours(rules.as_bytes());
            assert_eq!(found, user.map(|user| user.as_bytes().to_vec()), "{rules}");
        }
    }
}
