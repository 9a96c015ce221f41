//! Netlink: the socket that the kernel is programmed through (netlink(7)).
//!
//! Why by hand: no crate that is kept knows the expressions that interception needs (`redir`,
//! `tproxy`, `fib`) and comes without a C library, a licence that does not fit, or a runtime. What
//! is needed of the protocol is small.

mod message;

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, sendto,
    socket_with,
};
use thiserror::Error;

pub(super) use message::{
    Attributes, Header, Message, Messages, attribute, attributes, native, number, text,
};

/// The kernel answers at once; this is for one that never does.
const PATIENCE: Duration = Duration::from_secs(5);

/// The kernel sends at most 32 KiB of a dump at a time.
const BUFFER: usize = 64 * 1024;

pub(super) const REQUEST: u16 = 0x1;
pub(super) const ACKNOWLEDGE: u16 = 0x4;
pub(super) const DUMP: u16 = 0x300;
/// When something is made: replace what is there, it must not be there, make it, at the end.
pub(super) const REPLACE: u16 = 0x100;
pub(super) const EXCLUSIVE: u16 = 0x200;
pub(super) const CREATE: u16 = 0x400;
pub(super) const APPEND: u16 = 0x800;

const INTERRUPTED: u16 = 0x10;
const KIND_ERROR: u16 = 2;
const KIND_DONE: u16 = 3;

/// How often a dump is begun anew because something changed meanwhile.
const DUMPS: usize = 5;

/// Why the kernel did not do what it was asked.
#[derive(Debug, Error)]
pub enum NetlinkError {
    #[error("the kernel has no such netlink: {0}")]
    Open(Errno),
    #[error("netlink: {0}")]
    Transport(Errno),
    /// The answer to the message of this number.
    #[error("{errno}")]
    Answer { sequence: u32, errno: Errno },
    #[error("the rules changed all the time while they were read")]
    Restless,
}

impl NetlinkError {
    /// The kernel's error, whatever it came with.
    pub(super) fn errno(&self) -> Option<Errno> {
        match self {
            Self::Open(errno) | Self::Transport(errno) | Self::Answer { errno, .. } => Some(*errno),
            Self::Restless => None,
        }
    }
}

/// A connection to one of the kernel's subsystems, in the network namespace of this thread.
#[derive(Debug)]
pub(super) struct Socket {
    socket: OwnedFd,
}

impl Socket {
    /// `None` is routing.
    pub(super) fn open(protocol: Option<Protocol>) -> Result<Self, NetlinkError> {
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)
            .map_err(NetlinkError::Open)?;
        bind(&socket, &SocketAddrNetlink::new(0, 0)).map_err(NetlinkError::Transport)?;
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))
            .map_err(NetlinkError::Transport)?;
        Ok(Self { socket })
    }

    /// Sends messages of which the last, `sequence`, asks for an acknowledgement, and waits for it.
    pub(super) fn transact(&self, messages: &Messages, sequence: u32) -> Result<(), NetlinkError> {
        self.send(messages)?;
        let mut buffer = vec![0; BUFFER];
        loop {
            for message in self.receive(&mut buffer)? {
                let Some(errno) = error_of(&message) else {
                    continue;
                };
                let answered = message.header.sequence;
                match errno {
                    Some(errno) => {
                        return Err(NetlinkError::Answer {
                            sequence: answered,
                            errno,
                        });
                    }
                    None if answered == sequence => return Ok(()),
                    None => {}
                }
            }
        }
    }

    /// Asks for everything of a kind; `each` gets the body of each answer. It is asked again
    /// when something has changed in between.
    pub(super) fn dump<T>(
        &self,
        request: &Messages,
        mut each: impl FnMut(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>, NetlinkError> {
        for _ in 0..DUMPS {
            let mut found = Vec::new();
            if self.dump_once(request, |body| found.extend(each(body)))? {
                return Ok(found);
            }
        }
        Err(NetlinkError::Restless)
    }

    /// Whether nothing changed meanwhile.
    fn dump_once(
        &self,
        request: &Messages,
        mut each: impl FnMut(&[u8]),
    ) -> Result<bool, NetlinkError> {
        self.send(request)?;
        let mut buffer = vec![0; BUFFER];
        let mut whole = true;
        loop {
            for message in self.receive(&mut buffer)? {
                whole &= message.header.flags & INTERRUPTED == 0;
                match error_of(&message) {
                    Some(Some(errno)) => {
                        let sequence = message.header.sequence;
                        return Err(NetlinkError::Answer { sequence, errno });
                    }
                    Some(None) if message.header.kind == KIND_DONE => return Ok(whole),
                    Some(None) => {}
                    None => each(message.body),
                }
            }
        }
    }

    fn send(&self, messages: &Messages) -> Result<(), NetlinkError> {
        let kernel = SocketAddrNetlink::new(0, 0);
        sendto(&self.socket, messages.bytes(), SendFlags::empty(), &kernel)
            .map_err(NetlinkError::Transport)?;
        Ok(())
    }

    fn receive<'a>(
        &self,
        buffer: &'a mut [u8],
    ) -> Result<impl Iterator<Item = Message<'a>>, NetlinkError> {
        let (length, _) = recv(&self.socket, &mut *buffer, RecvFlags::empty())
            .map_err(NetlinkError::Transport)?;
        Ok(message::messages(&buffer[..length]))
    }
}

/// If the message ends the answer to another one: the error in it, or none.
fn error_of(message: &Message<'_>) -> Option<Option<Errno>> {
    if ![KIND_ERROR, KIND_DONE].contains(&message.header.kind) {
        return None;
    }
    let code = message
        .body
        .first_chunk()
        .map_or(0, |code| i32::from_ne_bytes(*code));
    Some((code != 0).then(|| Errno::from_raw_os_error(-code)))
}
