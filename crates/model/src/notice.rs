//! FORCERELEASE AFTER as the command reference defines it: the notices that were given, and the laws
//! of a hold whose owner was given notice.

use gpulock_core::Now;
use gpulock_core::engine::commands;
use gpulock_core::request::ForceRelease;
use gpulock_core::state::key_state::is_valid_owner;
use gpulock_core::state::lock::Bytes;
use gpulock_core::state::log::Text;

use crate::call::OWNERS;
use crate::flaw::Flaw;
use crate::law::Law;
use crate::memory_keys::{KEYS, name};
use crate::world::World;

/// The ticks of the cron after which the sweep has probed every key.
const SWEEPS: usize = 20;

/// The notice that the holder of a lock was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Notice {
    pub(crate) owner: Bytes,
    pub(crate) until_ms: u64,
    /// Another client has changed the lease, and the lock manager may not have noticed.
    pub(crate) is_changed: bool,
    /// Another client has written the key. Whether a hold of the same owner is a new one, and so
    /// without an earlier notice, depends on when the lock manager notices.
    pub(crate) is_uncertain: bool,
}

/// The notices of the holders of each key.
pub(crate) type Notices = [Option<Notice>; KEYS.len()];

impl Notice {
    /// The latest end of a lease that is set now. Once the notice is over, it ends in the same
    /// millisecond.
    pub(crate) fn latest_end(&self, now: Now) -> u64 {
        self.until_ms.max(now.ms())
    }
}

impl World {
    /// FORCERELEASE AFTER, with or without OWNER and TOKEN.
    pub fn give_notice(
        &mut self,
        key: usize,
        owner: Option<usize>,
        right_token: Option<bool>,
        after_ms: u64,
    ) {
        self.command_begins();
        let token = self.token_argument(key, right_token);
        let opened = self.open_named(key);
        let holder = self.keys.text(key).map(Bytes::from_slice);
        let is_meant = holder.as_deref().is_some_and(|holder| {
            is_valid_owner(holder) && owner.is_none_or(|owner| OWNERS[owner] == holder)
        });
        let is_flawed = self.flaw == Flaw::LengthensNotices;
        let passed_ms = if is_flawed { 10 * after_ms } else { after_ms };
        let request = ForceRelease {
            owner: owner.map(|owner| OWNERS[owner]),
            token,
            after_ms: Some(passed_ms),
            reason: Text::Borrowed(b"forced"),
        };
        let until_ms = self.now().ms() + after_ms;
        self.current.cuts_to_ms = Some(until_ms);
        let noticed = commands::force_release(self, opened, name(key), request, None);
        if let Ok(Some(from)) = noticed {
            let is_right = is_meant && holder.as_deref() == Some(&*from);
            self.require(Law::Notice, is_right, "FORCERELEASE returns the holder");
            self.record_notice(key, Bytes::from_slice(&from), until_ms);
        } else {
            let is_right = !is_meant || right_token.is_some();
            self.require(Law::Notice, is_right, "a holder can be given notice");
        }
        self.finish_step();
    }

    /// A second notice can only shorten.
    fn record_notice(&mut self, key: usize, owner: Bytes, until_ms: u64) {
        let before = self.notices[key].take().filter(|before| before.owner == owner);
        let until_ms = before.as_ref().map_or(until_ms, |it| it.until_ms.min(until_ms));
        let is_changed = before.as_ref().is_some_and(|before| before.is_changed);
        let is_uncertain = before.is_some_and(|before| before.is_uncertain);
        self.notices[key] = Some(Notice { owner, until_ms, is_changed, is_uncertain });
    }

    /// The notice of the owner that a key shows.
    pub(crate) fn notice(&self, key: usize) -> Option<&Notice> {
        let notice = self.notices[key].as_ref();
        notice.filter(|notice| self.keys.text(key) == Some(&*notice.owner))
    }

    /// Whether a notice ends the hold of a key now.
    pub(crate) fn is_notice_over(&self, key: usize) -> bool {
        self.notice(key).is_some_and(|it| it.until_ms <= self.now().ms())
    }

    /// A lease reaches beyond no notice, unless another client has just changed it.
    pub(crate) fn check_notices(&mut self) {
        for key in 0..KEYS.len() {
            let Some(notice) = self.notice(key) else { continue };
            let latest_ms = notice.latest_end(self.now());
            let is_cut = self.keys.until_ms(key).is_some_and(|ms| ms <= latest_ms);
            let is_exempt = notice.is_changed || notice.is_uncertain;
            self.require(
                Law::Notice,
                is_cut || is_exempt,
                "no lease reaches beyond a notice",
            );
        }
    }

    /// Runs the cron until the sweep has probed every key. Then no lease reaches beyond a notice,
    /// whatever other clients did.
    pub fn sweep_notices(&mut self) {
        if self.notices.iter().all(Option::is_none) {
            return;
        }
        for _ in 0..SWEEPS {
            self.advance_clock(6);
            self.cron();
        }
        for notice in self.notices.iter_mut().flatten() {
            notice.is_changed = false;
        }
        self.check_notices();
    }
}
