//! `--events FILE|FD`: where the events of a run are written to.

use std::ffi::OsString;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::unistd::close;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags,
    SocketType, recvmsg, socketpair,
};

/// The highest number of the standard streams.
const STDERR: RawFd = 2;

/// The value of the option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Sink {
    /// A file descriptor that this process has inherited.
    Descriptor(RawFd),
    File(PathBuf),
}

impl Sink {
    /// Parses `3`, `fd:3`, or a path.
    ///
    /// # Errors
    /// If the text is empty, or the number is too large.
    pub(crate) fn parse(text: OsString) -> Result<Self> {
        ensure!(!text.is_empty(), "must not be empty");
        let number = text.to_str().filter(|text| is_number(text));
        let named = text.to_str().and_then(|text| text.strip_prefix("fd:"));
        match named.or(number) {
            Some(number) => Ok(Self::Descriptor(descriptor(number)?)),
            None => Ok(Self::File(text.into())),
        }
    }

    /// Opens it for writing. Must be called before this process opens anything else: that could
    /// get the number of a descriptor which was not inherited.
    ///
    /// # Errors
    /// If it cannot be written to.
    pub(crate) fn open(&self) -> Result<File> {
        match self {
            Self::Descriptor(number) => take(*number).map(File::from),
            Self::File(path) => append_to(path),
        }
    }
}

impl fmt::Display for Sink {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Descriptor(number) => write!(out, "{number}"),
            Self::File(path) => write!(out, "{path:?}"),
        }
    }
}

fn is_number(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}

fn descriptor(number: &str) -> Result<RawFd> {
    let parsed = Some(number).filter(|number| is_number(number));
    let parsed = parsed.and_then(|number| number.parse().ok());
    parsed.with_context(|| format!("{number:?} is not the number of a file descriptor"))
}

/// Opens a file for appending. Does not wait for the reader of a FIFO.
fn append_to(path: &PathBuf) -> Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).create(true);
    options.custom_flags((OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits());
    let is_fifo = path.metadata().is_ok_and(|data| data.file_type().is_fifo());
    let file = options.open(path).map_err(|error| match error.raw_os_error() {
        Some(number) if is_fifo && Errno::from_raw(number) == Errno::ENXIO => {
            anyhow!("no process reads this FIFO")
        }
        _ => error.into(),
    })?;
    // The writes may block: they have their own thread.
    fcntl(&file, FcntlArg::F_SETFL(OFlag::O_APPEND))?;
    Ok(file)
}

/// Takes over an inherited descriptor, so that the command does not inherit it, too. The
/// standard streams are duplicated instead.
fn take(number: RawFd) -> Result<OwnedFd> {
    let taken = duplicate(number)?;
    let flags = OFlag::from_bits_retain(fcntl(&taken, FcntlArg::F_GETFL)?);
    let mode = flags & OFlag::O_ACCMODE;
    ensure!(
        mode == OFlag::O_WRONLY || mode == OFlag::O_RDWR,
        "this file descriptor is not open for writing"
    );
    if number > STDERR {
        close(number)?;
    }
    Ok(taken)
}

/// Duplicates a descriptor by number, by sending it to this process: other ways are unsafe (the
/// number may be that of any object), or do not work for sockets.
fn duplicate(number: RawFd) -> Result<OwnedFd> {
    const NOT_OPEN: &str = "this file descriptor is not open";
    let (sender, receiver) =
        socketpair(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    let own = [sender.as_raw_fd(), receiver.as_raw_fd()];
    ensure!(!own.contains(&number), NOT_OPEN);
    let descriptors = [number];
    let rights = [ControlMessage::ScmRights(&descriptors)];
    match sendmsg::<()>(
        sender.as_raw_fd(),
        &[IoSlice::new(b".")],
        &rights,
        MsgFlags::empty(),
        None,
    ) {
        Err(Errno::EBADF) => bail!(NOT_OPEN),
        sent => sent?,
    };
    receive(&receiver)
}

fn receive(receiver: impl AsFd) -> Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(
        receiver,
        &mut [IoSliceMut::new(&mut byte)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let received = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    received.context("not received")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_a_descriptor() {
        let parse = |text: &str| Sink::parse(text.into()).ok();
        assert_eq!(parse("3"), Some(Sink::Descriptor(3)));
        assert_eq!(parse("fd:3"), Some(Sink::Descriptor(3)));
        for path in ["./3", "3.jsonl", "-1", "fd"] {
            assert_eq!(parse(path), Some(Sink::File(path.into())), "{path}");
        }
        for invalid in ["", "99999999999", "fd:", "fd:x", "fd:-1"] {
            assert_eq!(parse(invalid), None, "{invalid}");
        }
    }
}
