//! `outrider supervised`: becomes another program that the kernel ends when its supervisor dies,
//! even when that was killed without a chance to clean up; as another user, when it is told to.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, bail};
use rustix::process::{Gid, Signal, Uid, getppid, set_parent_process_death_signal};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capability_is_in_bounding_set,
    configure_capability_in_ambient_set, remove_capability_from_bounding_set, set_capabilities,
    set_keep_capabilities, set_no_new_privs, set_thread_groups, set_thread_res_gid,
    set_thread_res_uid,
};

use crate::args::SupervisedArgs;

/// Returns only when the program cannot be started.
pub(crate) fn run(args: &SupervisedArgs) -> anyhow::Result<ExitCode> {
    let Some((program, arguments)) = args.command.split_first() else {
        bail!("no program to run");
    };
    // Another user may have no way to where this program itself lies, such as somebody's home.
    let own = std::env::current_exe().is_ok_and(|own| own.as_os_str() == program);
    let opened = own.then(|| File::open(program)).and_then(Result::ok);
    if let Some(user) = args.user {
        let kept = match args.net_admin {
            true => CapabilitySet::NET_ADMIN,
            false => CapabilitySet::empty(),
        };
        if args.confined {
            give_up_all_but(kept).context("cannot give up capabilities")?;
        }
        become_user(user, kept).with_context(|| format!("cannot become user {user}"))?;
        if args.confined {
            set_no_new_privs(true).context("cannot give up new privileges")?;
        }
    }
    // After the change of user, which takes the signal away.
    if let Some(supervisor) = args.parent {
        end_with(supervisor)?;
    }
    let mut error = start(program.as_os_str(), program, arguments);
    if let (io::ErrorKind::PermissionDenied, Some(file)) = (error.kind(), &opened) {
        let opened = format!("/proc/self/fd/{}", file.as_raw_fd());
        error = start(OsStr::new(&opened), program, arguments);
    }
    Err(error).with_context(|| format!("cannot run {}", program.display()))
}

fn start(path: &OsStr, name: &OsStr, arguments: &[OsString]) -> io::Error {
    Command::new(path).arg0(name).args(arguments).exec()
}

fn end_with(supervisor: u32) -> anyhow::Result<()> {
    set_parent_process_death_signal(Some(Signal::TERM))
        .context("cannot tie this process to its supervisor")?;
    // The supervisor may have died before the line above.
    let parent = getppid().map(|pid| pid.as_raw_nonzero().get().unsigned_abs());
    if parent != Some(supervisor) {
        bail!("the supervisor is gone");
    }
    Ok(())
}

/// Takes every other capability out of what this process and its children can ever have.
fn give_up_all_but(kept: CapabilitySet) -> rustix::io::Result<()> {
    for bit in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << bit);
        match capability_is_in_bounding_set(capability) {
            Ok(true) if capability != kept => remove_capability_from_bounding_set(capability)?,
            Ok(_) => {}
            // Beyond the last one that the kernel knows.
            Err(_) => break,
        }
    }
    Ok(())
}

/// Becomes `user` in a group of the same number, with no capability but `kept`.
fn become_user(user: u32, kept: CapabilitySet) -> rustix::io::Result<()> {
    let (uid, gid) = (Uid::from_raw(user), Gid::from_raw(user));
    set_thread_groups(&[])?;
    set_thread_res_gid(gid, gid, gid)?;
    set_keep_capabilities(!kept.is_empty())?;
    set_thread_res_uid(uid, uid, uid)?;
    if !kept.is_empty() {
        let sets = CapabilitySets {
            effective: kept,
            permitted: kept,
            inheritable: kept,
        };
        set_capabilities(None, sets)?;
        configure_capability_in_ambient_set(kept, true)?;
    }
    Ok(())
}
