//! Unloading. The server keeps pointers to commands of the module, and would use them after the
//! module has unloaded:
//!
//! - An open transaction refers to the commands that it has queued.
//! - Each client refers to its last command: `CLIENT LIST` prints its name, and Redis 8 tries it
//!   first when it looks up the next command.
//! - The rules of an ACL user refer to commands; four of the six tested servers abort when one of
//!   those no longer exists.
//!
//! The connections of such clients are closed. If that is not possible, the module does not unload.

use super::context::{Context, log_warning};
use super::needed_commands;

/// Whether the module may unload now. If not, the reason is written to the server log, because the
/// server only replies that the operation is not possible.
pub(crate) fn is_possible(context: Context<'_>) -> bool {
    let reason = obstacle(context);
    if let Some(reason) = &reason {
        log_warning(&format!("cannot unload: {reason}"));
    }
    reason.is_none()
}

fn obstacle(context: Context<'_>) -> Option<String> {
    // The client of the transaction cannot be closed, and may have queued more commands of the
    // module.
    if context.flags().in_script_or_transaction() {
        return Some(
            "MODULE UNLOAD is not possible in a transaction. Call it outside MULTI"
                .to_owned(),
        );
    }
    for name in [c"CLIENT", c"ACL"] {
        if !needed_commands::exists(context, name) {
            return Some(format!(
                "the command {name:?} is renamed or disabled, so the module cannot find the \
                 clients and ACL users that refer to it. Remove the rename-command line, or \
                 restart the server without the module"
            ));
        }
    }
    let user =
        context.acl_rules().into_iter().find_map(|rules| user_with_command(&rules))?;
    Some(format!(
        "the rules of the ACL user \"{}\" name a GPULOCK command, which would make the server \
         abort. Remove the command from the rules with ACL SETUSER",
        user.escape_ascii()
    ))
}

/// The user in a line of `ACL LIST`, if its rules name a command of the module.
fn user_with_command(rules: &[u8]) -> Option<Vec<u8>> {
    let mut words = rules.split(|byte| *byte == b' ');
    let user = words.nth(1)?;
    words.any(names_command).then(|| user.to_vec())
}

/// Whether a rule names a command of the module: `+gpulock.acquire`, also as the first rule of a
/// selector.
fn names_command(rule: &[u8]) -> bool {
    let rule = rule.strip_prefix(b"(").unwrap_or(rule);
    let command = rule.strip_prefix(b"+").or_else(|| rule.strip_prefix(b"-"));
    let prefix = command.and_then(|command| command.get(..PREFIX.len()));
    prefix.is_some_and(|prefix| prefix.eq_ignore_ascii_case(PREFIX))
}

const PREFIX: &[u8] = b"gpulock.";

/// Closes the connections of clients that refer to commands of the module. They can reconnect.
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
    fn users_whose_rules_name_a_command_of_the_module_are_found() {
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
            let found = user_with_command(rules.as_bytes());
            assert_eq!(found, user.map(|user| user.as_bytes().to_vec()), "{rules}");
        }
    }
}
