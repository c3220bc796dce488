//! The options that decide in which order waiting calls are served, and which free lock is
//! preferred.

use std::ops::RangeInclusive;

use anyhow::{Result, ensure};
use clap::value_parser;
use nix::unistd::{User, getuid};
use redis::Cmd;

/// The priorities that the server accepts. `gpulock.max-priority` may be lower.
const PRIORITIES: RangeInclusive<i64> = -100..=100;

/// Maximum length of a share in bytes.
const MAX_SHARE: usize = 256;

/// Maximum length of a tag in bytes.
const MAX_TAG: usize = 64;

/// The options of the order.
#[derive(Debug, clap::Args)]
pub(crate) struct TurnOptions {
    /// Serve this run before waiting runs with a lower priority: -100 to 100
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true, value_parser = value_parser!(i64).range(PRIORITIES))]
    priority: i64,
    /// Take turns with the other shares; '' for plain first come, first served [default: your
    /// login name]
    #[arg(long, value_name = "NAME", value_parser = share)]
    share: Option<String>,
    /// Prefer the free lock whose last hold had the same tag
    #[arg(long, value_name = "TAG", value_parser = tag)]
    near: Option<String>,
}

/// The order in which a call is served.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Turn {
    priority: i64,
    share: Option<String>,
    near: Option<String>,
}

impl TurnOptions {
    /// The options, with the user's login name as the default share.
    pub(crate) fn turn(&self) -> Turn {
        let share = self.share.clone().unwrap_or_else(login_name);
        Turn {
            priority: self.priority,
            share: Some(share).filter(|name| !name.is_empty()),
            near: self.near.clone(),
        }
    }
}

impl Turn {
    /// Adds the arguments to a call of ACQUIREANY.
    pub(super) fn add_to(&self, acquire: &mut Cmd) {
        if let Some(near) = &self.near {
            acquire.arg("NEAR").arg(near);
        }
        if self.priority != 0 {
            acquire.arg("PRIORITY").arg(self.priority);
        }
        if let Some(share) = &self.share {
            acquire.arg("SHARE").arg(share);
        }
    }
}

/// The name of the user who started this process, as `id -run` prints it; the number of a user
/// without a name.
pub(crate) fn login_name() -> String {
    let user = getuid();
    let named = User::from_uid(user).ok().flatten();
    named.map_or_else(|| user.to_string(), |named| named.name)
}

fn share(name: &str) -> Result<String> {
    ensure!(name.len() <= MAX_SHARE, "must be at most {MAX_SHARE} bytes");
    Ok(name.to_owned())
}

fn tag(tag: &str) -> Result<String> {
    ensure!((1..=MAX_TAG).contains(&tag.len()), "must be 1 to {MAX_TAG} bytes");
    Ok(tag.to_owned())
}
