//! The candidate locks of a run: named on the command line, or the GPUs of this host.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use anyhow::Result;

use super::calls::{Groups, Lock, LockRequest};
use super::card::Card;
use super::pool::{Pool, PoolOptions, requested};
use super::variables::Candidates;
use crate::gpus::{self, Gpu};
use crate::text::Text;

/// The candidate locks.
pub(crate) enum Targets {
    /// Named by their keys.
    Named(Vec<Text>),
    /// The GPUs of a pool.
    Pool(Pool),
}

impl Targets {
    /// Locks named by their keys.
    pub(crate) fn named(keys: &[OsString]) -> Self {
        Self::Named(keys.iter().map(|key| Text(key.as_bytes().to_vec())).collect())
    }

    /// The GPUs of this host.
    ///
    /// # Errors
    /// If the GPUs cannot be listed.
    pub(crate) fn pool(options: &PoolOptions) -> Result<Self> {
        let host = gpus::host_id()?;
        Pool::of(gpus::of_this_host()?, &host, options).map(Self::Pool)
    }

    /// Messages about the environment's lists of GPUs.
    pub(crate) fn warnings(&self) -> Vec<String> {
        match self {
            Self::Named(_) => Vec::new(),
            Self::Pool(pool) => pool.warnings.clone(),
        }
    }

    /// The keys, and the numbers of locks and groups, of a request for `wanted` of all locks or
    /// GPUs.
    pub(crate) fn requested(&self, wanted: usize) -> (Vec<Text>, usize, Option<Groups>) {
        match self {
            Self::Named(keys) => (keys.clone(), wanted, None),
            Self::Pool(pool) => requested(&pool.cards().collect::<Vec<_>>(), wanted),
        }
    }

    /// Limits a request to the GPUs that are usable now. False: they are too few.
    pub(crate) fn limit_to_usable(&mut self, request: &mut LockRequest) -> bool {
        match self {
            Self::Named(_) => true,
            Self::Pool(pool) => pool.limit_to_usable(request),
        }
    }

    /// Whether any GPU is skipped.
    pub(crate) fn has_skipped(&self) -> bool {
        match self {
            Self::Named(_) => false,
            Self::Pool(pool) => pool.has_skipped(),
        }
    }

    /// Checks granted locks. Returns the reasons why some are unusable; their GPUs are skipped
    /// from now on.
    pub(crate) fn skip_unusable(&mut self, locks: &[Lock]) -> Vec<String> {
        match self {
            Self::Named(_) => Vec::new(),
            Self::Pool(pool) => pool.skip_unusable(locks),
        }
    }

    /// Whether the free memory of granted GPUs is checked.
    pub(crate) const fn checks_memory(&self) -> bool {
        match self {
            Self::Named(_) => false,
            Self::Pool(pool) => pool.checks_memory(),
        }
    }

    /// The keys of the GPUs; empty if the locks are not a pool's.
    pub(crate) fn gpus(&self) -> Vec<(Text, Gpu)> {
        match self {
            Self::Named(_) => Vec::new(),
            Self::Pool(pool) => pool.cards().flat_map(Card::keys_with_gpu).collect(),
        }
    }

    /// Keys that must be free besides these locks: those of the same GPUs, divided differently.
    pub(crate) fn foreign_keys(&self, locks: &[Lock]) -> Vec<Text> {
        match self {
            Self::Named(_) => Vec::new(),
            Self::Pool(pool) => pool.foreign_keys(locks),
        }
    }

    /// Removes the granted locks that are not needed, and returns them.
    pub(crate) fn split_off_surplus(&self, locks: &mut Vec<Lock>) -> Vec<Lock> {
        match self {
            Self::Named(_) => Vec::new(),
            Self::Pool(pool) => pool.split_off_surplus(locks),
        }
    }

    /// The locks that can be granted, to describe them to the command.
    pub(super) fn candidates(&self) -> Candidates {
        match self {
            Self::Named(keys) => Candidates::Named(keys.clone()),
            Self::Pool(pool) => Candidates::Cards(pool.cards().cloned().collect()),
        }
    }
}
