//! Replacing a sidecar by another process without closing a port in between: the one that runs hands
//! its listening sockets to the one that starts, over a Unix socket (`SCM_RIGHTS`), and goes on until
//! the other is ready. A connection that is waiting to be accepted is accepted by one of them.
//!
//! Nothing else is handed over: connections that are open stay with the process that has them, which
//! drains; counters, breakers and budgets begin anew.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

/// Room for an address as text, padded with spaces. One that is empty ends the list.
const NAME: usize = 64;
/// What the one that starts says when it serves, and hears.
const READY: u8 = b'R';
/// What it hears when another one has come after it.
const SUPERSEDED: u8 = b'S';
/// The one that runs has so long to answer that.
const ANSWER: Duration = Duration::from_secs(5);
/// The one that starts has so long for one word.
const PATIENCE: Duration = Duration::from_secs(60);

/// A listening socket, by the address that it is bound to.
#[derive(Debug)]
pub struct Named {
    pub address: SocketAddr,
    pub socket: OwnedFd,
}

/// Listening sockets of the sidecar before, until somebody has use for them.
#[derive(Debug, Default)]
pub struct Inherited(Mutex<Vec<Named>>);

impl Inherited {
    /// A socket that is bound to `address` and listens already. There may be more workers now than
    /// before: they share the last one.
    pub fn take(&self, address: SocketAddr) -> Option<std::net::TcpListener> {
        let mut sockets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_it = |named: &Named| named.address == address;
        let index = sockets.iter().position(is_it)?;
        let is_last = !sockets[index + 1..].iter().any(is_it);
        let copied = is_last.then(|| sockets[index].socket.try_clone().ok());
        let socket = match copied.flatten() {
            Some(copy) => copy,
            None => sockets.swap_remove(index).socket,
        };
        Some(socket.into())
    }

    /// Closes those that nobody had use for.
    pub fn close(&self) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }
}

/// The sidecar before, which waits for a word.
#[derive(Debug)]
pub struct Predecessor(UnixStream);

impl Predecessor {
    /// Tells it that it may end. One that has died needs no word.
    ///
    /// # Errors
    /// It waits no longer for this process but for another one, or that one has replaced it already.
    pub fn relieve(mut self) -> io::Result<()> {
        self.0.set_read_timeout(Some(ANSWER))?;
        // What it has said to this process can be read even where it no longer listens.
        let _ = self.0.write_all(&[READY]);
        match read_word(&self.0) {
            Ok(SUPERSEDED) => Err(io::Error::other("another process has come after this one")),
            Ok(_) | Err(_) => Ok(()),
        }
    }
}

/// Takes the sockets of the sidecar that listens at `path`; `None`: none does.
///
/// # Errors
/// It stops in the middle.
pub fn take_over(path: &Path) -> io::Result<Option<(Inherited, Predecessor)>> {
    let stream = match UnixStream::connect(path) {
        Ok(stream) => stream,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    check_peer(&stream)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut sockets = Vec::new();
    while let Some(named) = receive(&stream)? {
        sockets.push(named);
    }
    let inherited = Inherited(Mutex::new(sockets));
    Ok(Some((inherited, Predecessor(stream))))
}

/// Waits at `path` for the process that comes next, gives it what `sockets` are at that moment, and
/// returns when it serves. One that dies before that changes nothing, and one that gets stuck does not
/// hold up the next one, which takes its place.
///
/// # Errors
/// `path` cannot be listened at.
pub fn wait_for_successor(path: &Path, sockets: impl Fn() -> Vec<Named>) -> io::Result<()> {
    // What is there is of a sidecar that has ended, or that has just been relieved.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    let mut successor: Option<UnixStream> = None;
    loop {
        let (comes, speaks) = wait(&listener, successor.as_ref())?;
        if let Some(mut stream) = successor.take_if(|_| speaks) {
            match read_word(&stream) {
                Ok(READY) => {
                    // One that has gone in the meantime has served, too.
                    let _ = stream.write_all(&[READY]);
                    return Ok(());
                }
                said => {
                    tracing::warn!(?said, "the process that was to replace this one has ended");
                }
            }
        } else if comes {
            // The one before is told before the new one has anything.
            if let Some(mut stuck) = successor.take() {
                let _ = stuck.write_all(&[SUPERSEDED]);
            }
            let (stream, _) = listener.accept()?;
            // Between its making and its mode the socket may have been open to others.
            match check_peer(&stream).and_then(|()| give(&stream, sockets())) {
                Ok(()) => successor = Some(stream),
                Err(error) => tracing::warn!(%error, "did not hand over"),
            }
        }
    }
}

/// Until somebody new comes, or the successor says something: which of them. It has as long for that as
/// it takes: until then both serve.
fn wait(listener: &UnixListener, successor: Option<&UnixStream>) -> io::Result<(bool, bool)> {
    let mut ends = vec![PollFd::new(listener, PollFlags::IN)];
    ends.extend(successor.map(|stream| PollFd::new(stream, PollFlags::IN)));
    loop {
        match poll(&mut ends, None) {
            Err(Errno::INTR) => {}
            polled => {
                polled?;
                break;
            }
        }
    }
    let happened = |end: Option<&PollFd<'_>>| end.is_some_and(|end| !end.revents().is_empty());
    Ok((happened(ends.first()), happened(ends.get(1))))
}

fn read_word(mut stream: &UnixStream) -> io::Result<u8> {
    let mut word = [0];
    stream.read_exact(&mut word)?;
    Ok(word[0])
}

/// The path may be in a folder that others write to: sockets come from and go to the user that this
/// runs as, or root, and nobody else.
fn check_peer(stream: &UnixStream) -> io::Result<()> {
    let peer = rustix::net::sockopt::socket_peercred(stream)?.uid;
    let own = rustix::process::geteuid();
    if peer == own || peer.is_root() {
        return Ok(());
    }
    let message = format!(
        "the other end is of UID {}, not of UID {}",
        peer.as_raw(),
        own.as_raw()
    );
    Err(io::Error::new(io::ErrorKind::PermissionDenied, message))
}

fn give(stream: &UnixStream, sockets: Vec<Named>) -> io::Result<()> {
    // It takes what it gets at once.
    stream.set_write_timeout(Some(PATIENCE))?;
    for named in &sockets {
        send(stream, &named.address.to_string(), Some(&named.socket))?;
    }
    send(stream, "", None)
}

fn send(stream: &UnixStream, name: &str, socket: Option<&OwnedFd>) -> io::Result<()> {
    let record = format!("{name:NAME$}");
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let sockets = socket.map(|socket| [socket.as_fd()]);
    if let Some(sockets) = &sockets {
        control.push(SendAncillaryMessage::ScmRights(sockets));
    }
    let bytes = [IoSlice::new(record.as_bytes())];
    let sent = rustix::net::sendmsg(stream, &bytes, &mut control, SendFlags::NOSIGNAL)?;
    if sent == NAME {
        Ok(())
    } else {
        Err(io::ErrorKind::WriteZero.into())
    }
}

fn receive(stream: &UnixStream) -> io::Result<Option<Named>> {
    let mut record = [0; NAME];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::WAITALL;
    let mut bytes = [IoSliceMut::new(&mut record)];
    let received = rustix::net::recvmsg(stream, &mut bytes, &mut control, flags)?;
    if received.bytes != NAME {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let malformed = || io::Error::from(io::ErrorKind::InvalidData);
    let name = std::str::from_utf8(&record)
        .map_err(|_| malformed())?
        .trim();
    if name.is_empty() {
        return Ok(None);
    }
    let address = name.parse().map_err(|_| malformed())?;
    let socket = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut sockets) => sockets.next(),
        _ => None,
    });
    let socket = socket.ok_or_else(malformed)?;
    Ok(Some(Named { address, socket }))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_connection_that_waits_is_accepted_by_the_successor() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("handover.sock");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        let waiting = TcpStream::connect(address).expect("connected");
        let before = {
            let path = path.clone();
            std::thread::spawn(move || {
                let sockets = || {
                    let socket = listener.as_fd().try_clone_to_owned().expect("a copy");
                    vec![Named { address, socket }]
                };
                wait_for_successor(&path, sockets)
            })
        };
        let taken = loop {
            match take_over(&path).expect("no failure") {
                Some(taken) => break taken,
                None => std::thread::yield_now(),
            }
        };
        let (inherited, predecessor) = taken;
        let taken = inherited.take(address).expect("the socket");
        let another = inherited
            .take(address)
            .expect("the same for another worker");
        assert_eq!(another.local_addr().expect("its address"), address);
        inherited.close();
        assert!(inherited.take(address).is_none());
        predecessor.relieve().expect("relieved");
        before.join().expect("no panic").expect("handed over");
        // The one before has closed its own by now.
        let (_, from) = taken.accept().expect("accepted");
        assert_eq!(from, waiting.local_addr().expect("its address"));
        TcpStream::connect(address).expect("the port was never closed");
    }

    #[test]
    fn one_that_dies_before_it_serves_changes_nothing() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("handover.sock");
        let before = {
            let path = path.clone();
            std::thread::spawn(move || wait_for_successor(&path, Vec::new))
        };
        for relieves in [false, true] {
            let (_, predecessor) = loop {
                match take_over(&path).expect("no failure") {
                    Some(taken) => break taken,
                    None => std::thread::yield_now(),
                }
            };
            if relieves {
                predecessor.relieve().expect("relieved");
            }
        }
        before.join().expect("no panic").expect("handed over");
    }

    #[test]
    fn one_that_is_stuck_does_not_hold_up_the_next() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("handover.sock");
        let before = {
            let path = path.clone();
            std::thread::spawn(move || wait_for_successor(&path, Vec::new))
        };
        let taken = || loop {
            match take_over(&path).expect("no failure") {
                Some((_, predecessor)) => break predecessor,
                None => std::thread::yield_now(),
            }
        };
        let (stuck, next) = (taken(), taken());
        stuck
            .relieve()
            .expect_err("it woke up too late: another one has its place");
        next.relieve().expect("relieved");
        before.join().expect("no panic").expect("handed over");
    }

    #[test]
    fn without_a_sidecar_before_there_is_nothing_to_take() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("handover.sock");
        assert!(take_over(&path).expect("no failure").is_none());
        // What a sidecar that was killed leaves behind.
        drop(UnixListener::bind(&path).expect("bound"));
        assert!(take_over(&path).expect("no failure").is_none());
    }
}
