//! The keyspace of the server, as the engine uses it.

use std::cell::{Cell, OnceCell};

use gpulock_core::engine::{Keyspace, Permission};
use gpulock_core::state::key_state::{Expires, KeyMeta};
use gpulock_core::{KeyState, LockManager, Name, Now};

use crate::broken_rules;
use crate::injected_panics::{IN_BACKGROUND, panic_at};
use crate::manager::{now, with_manager};
use crate::redis::call::Call;
use crate::redis::command_filter;
use crate::redis::context::Context;
use crate::redis::key::Key;
use crate::redis::main_thread::MainThread;
use crate::redis::panic_boundary::catch_panics;
use crate::redis::write_permission;

/// The keys of the server during one callback. Nothing else runs before the callback returns, so
/// one refusal applies to all of its work. One permission does too, except in a cluster, where each
/// key may have moved.
pub(crate) struct ServerKeys<'a> {
    context: Context<'a>,
    /// The client's command that this is a part of; none: work on the module's own initiative.
    call: Option<Call<'a>>,
    in_cluster: OnceCell<bool>,
    permission: Cell<Option<Permission>>,
}

/// Whether the last work on the module's own initiative was refused.
static WAS_REFUSED: MainThread<Cell<bool>> = MainThread::new(Cell::new(false));

/// Whether the last work on the module's own initiative was refused, so that trying again at once
/// is useless.
pub(crate) fn was_refused() -> bool {
    WAS_REFUSED.get()
}

impl<'a> ServerKeys<'a> {
    /// For work that is part of a client's command.
    pub(crate) fn of_command(call: Call<'a>) -> Self {
        Self::new(call.context(), Some(call))
    }

    /// For work on the module's own initiative.
    pub(crate) fn in_background(context: Context<'a>) -> Self {
        Self::new(context, None)
    }

    fn new(context: Context<'a>, call: Option<Call<'a>>) -> Self {
        let (in_cluster, permission) = (OnceCell::new(), Cell::new(None));
        Self { context, call, in_cluster, permission }
    }
}

impl<'a> Keyspace for ServerKeys<'a> {
    type Key = Key<'a>;

    fn with_manager<T>(&mut self, decide: impl FnOnce(&mut LockManager) -> T) -> T {
        with_manager(decide)
    }

    fn now(&self) -> Now {
        now()
    }

    fn listen(&mut self, is_on: bool) {
        if is_on {
            command_filter::register(self.context);
        } else {
            command_filter::unregister(self.context);
        }
    }

    fn may_start(&mut self) -> bool {
        let may_start = write_permission::may_start(self.context);
        WAS_REFUSED.set(!may_start);
        may_start
    }

    fn permission(&mut self, key: &[u8]) -> Permission {
        // The server has accepted the command, and outside a cluster that permits all its keys.
        if self.call.is_some() && !self.in_cluster() {
            return Permission::Granted;
        }
        if let Some(permission) = self.permission.get() {
            return permission;
        }
        let permission = write_permission::check(self.context, key);
        let is_refused = permission == Permission::Refused;
        if is_refused || !self.in_cluster() {
            self.permission.set(Some(permission));
        }
        WAS_REFUSED.set(is_refused);
        permission
    }

    fn known_permission(&self) -> Option<Permission> {
        self.permission.get()
    }

    fn in_cluster(&self) -> bool {
        *self.in_cluster.get_or_init(|| self.context.flags().in_cluster())
    }

    fn may_write_other_keys(&self) -> bool {
        self.call.is_none() || !self.context.flags().denies_blocking()
    }

    fn isolated(&mut self, work: impl FnOnce(&mut Self)) {
        catch_panics(|| work(self));
    }

    fn open(&mut self, name: Name<'_>) -> Option<Self::Key> {
        if self.call.is_none() {
            panic_at(IN_BACKGROUND, name.key);
        }
        self.context.open_by_name(name.db, name.key)
    }

    fn meta(&mut self, key: &Self::Key) -> KeyMeta {
        key.meta()
    }

    fn expiry(&mut self, key: &Self::Key) -> Option<Expires> {
        key.expiry()
    }

    fn state<'k>(&mut self, key: &'k Self::Key) -> KeyState<'k> {
        broken_rules::state(key.state())
    }

    fn string_state<'k>(&mut self, key: &'k Self::Key, expires: Expires) -> KeyState<'k> {
        broken_rules::state(key.string_state(expires))
    }

    fn state_for_owner<'k>(&mut self, key: &'k Self::Key, owner: &[u8]) -> KeyState<'k> {
        broken_rules::state_for_owner(key, owner)
    }

    fn is_ours(&mut self, key: &Self::Key) -> bool {
        key.is_ours()
    }

    fn set(&mut self, key: &mut Self::Key, owner: &[u8], until_ms: u64) {
        let argument = || self.call.and_then(|call| call.owner_argument(owner));
        key.set(owner, argument, until_ms);
    }

    fn expire(&mut self, key: &mut Self::Key, until_ms: u64) {
        key.expire(until_ms);
    }

    fn delete(&mut self, key: &mut Self::Key) {
        key.delete();
    }
}
