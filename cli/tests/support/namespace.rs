//! Programs in namespaces of their own. Containers, chroots and some kernels do not permit them: tests
//! that need them are skipped there.

use std::process::Command;

use gpulock_testkit::print_skipped;

/// `unshare` with these options, and those that the user needs. The program to start is added by the
/// caller. Prints a message and returns None if namespaces or mounts in them are not permitted.
pub(crate) fn unshare(options: &[&str]) -> Option<Command> {
    let unshare = |user: &[&str]| {
        let mut unshare = Command::new("unshare");
        unshare.args(user).args(options);
        unshare
    };
    let is_permitted = |user: &[&str]| {
        let tried = unshare(user).args(["mount", "--make-rprivate", "/"]).output();
        tried.is_ok_and(|output| output.status.success())
    };
    // Without root, a user namespace gives the permission.
    let users: [&[&str]; 2] = [&[], &["--map-root-user"]];
    let Some(user) = users.into_iter().find(|user| is_permitted(user)) else {
        print_skipped(&format!("unshare {options:?} is not permitted"));
        return None;
    };
    Some(unshare(user))
}
