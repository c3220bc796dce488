//! The users that docs/operations.md recommends, so that tests execute the rules as written there.
//! What the users can do is in tests/server/acl.

use std::fs;

use crate::{Client, workspace};

/// A user of docs/operations.md.
#[derive(Clone, Debug)]
pub struct AclUser {
    /// The first word of the rules.
    pub name: String,
    /// The password in the rules.
    pub password: String,
    /// The arguments of `ACL SETUSER`.
    pub rules: String,
}

impl AclUser {
    /// The user that an example of `ACL SETUSER` in docs/operations.md creates.
    ///
    /// # Panics
    /// If there is no such example.
    #[track_caller]
    pub fn documented(name: &str) -> Self {
        let user = Self::all_documented().into_iter().find(|user| user.name == name);
        user.unwrap_or_else(|| panic!("docs/operations.md has no user {name}"))
    }

    /// All users of docs/operations.md, in its order.
    pub fn all_documented() -> Vec<Self> {
        let docs = fs::read_to_string(workspace().join("docs/operations.md"));
        let examples = docs.expect("docs/operations.md");
        examples
            .lines()
            .filter_map(|line| line.strip_prefix("127.0.0.1:6379> ACL SETUSER "))
            .map(|rules| Self::with_rules(rules).expect("a name and a password"))
            .collect()
    }

    fn with_rules(rules: &str) -> Option<Self> {
        let mut words = rules.split(' ');
        let name = words.next()?.to_owned();
        let password = words.find_map(|word| word.strip_prefix('>'))?.to_owned();
        Some(Self { name, password, rules: rules.to_owned() })
    }

    /// Creates the user on the server of an administrator's connection.
    #[track_caller]
    pub fn create(&self, admin: &mut Client) {
        let line = format!("ACL SETUSER {}", self.rules);
        assert_eq!(admin.line(&line), "OK", "{line}");
    }

    /// A URL of the server at a port, with the name and the password of the user.
    pub fn url(&self, port: u16) -> String {
        format!("redis://{}:{}@127.0.0.1:{port}", self.name, self.password)
    }
}
