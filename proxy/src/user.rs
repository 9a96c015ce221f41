//! Becoming the sidecar's user. Kubernetes gives capabilities to root only, so that a sidecar which
//! needs one starts as root and gives up everything else before it does anything.

use rustix::io::Errno;
use rustix::process::{Gid, Uid, geteuid};
use rustix::thread::{
    CapabilitySet, CapabilitySets, set_capabilities, set_keep_capabilities, set_thread_groups,
    set_thread_res_gid, set_thread_res_uid,
};

use crate::intercept::Mode;

/// The process is still who it was.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot become user {user}: {error} (expected to be started as root, with SETUID, SETGID and, for \
     --intercept tproxy, NET_ADMIN)"
)]
pub(crate) struct UserError {
    user: u32,
    error: Errno,
}

/// Becomes `user`, in a group of the same number, with no capability but what `mode` takes. Whoever is
/// that user already stays as it is.
///
/// Of this thread: it must be the only one.
///
/// # Errors
/// The kernel does not let it.
pub(crate) fn become_user(user: u32, mode: Option<Mode>) -> Result<(), UserError> {
    if geteuid().as_raw() == user {
        return Ok(());
    }
    let kept = match mode {
        Some(Mode::Tproxy) => CapabilitySet::NET_ADMIN,
        Some(Mode::Redirect) | None => CapabilitySet::empty(),
    };
    change(user, kept).map_err(|error| UserError { user, error })
}

fn change(user: u32, kept: CapabilitySet) -> rustix::io::Result<()> {
    let (uid, gid) = (Uid::from_raw(user), Gid::from_raw(user));
    set_thread_groups(&[])?;
    set_thread_res_gid(gid, gid, gid)?;
    set_keep_capabilities(!kept.is_empty())?;
    set_thread_res_uid(uid, uid, uid)?;
    let sets = CapabilitySets {
        effective: kept,
        permitted: kept,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, sets)
}
