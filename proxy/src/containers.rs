//! When the other containers of a pod have ended, for a sidecar that is one of them: a pod that is to
//! end (of a Job) does so when all its containers have, and nobody tells a classic sidecar.
//!
//! Reads `/proc`, on a thread that carries no traffic. It sees the others' processes only where the pod
//! has one process namespace (`shareProcessNamespace`).

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

/// Between two looks. What lives for less time than that may not be seen.
const INTERVAL: Duration = Duration::from_millis(100);
const PROC: &str = "/proc";
/// Of the pod itself where processes are shared; else of the container.
const FIRST: u32 = 1;

/// Resolves when `count` other containers have run, and none does any more. Never, where they cannot
/// be seen.
pub async fn ended(count: u16) {
    if std::process::id() == FIRST {
        tracing::error!(
            "whether the app has ended cannot be seen: the pod does not share its process namespace"
        );
        return std::future::pending().await;
    }
    let user = rustix::process::getuid().as_raw();
    let mut begun: HashSet<u32> = HashSet::new();
    loop {
        match tokio::task::spawn_blocking(move || others(Path::new(PROC), user)).await {
            Ok(Ok(running)) => {
                begun.extend(running.iter().copied());
                if running.is_empty() && begun.len() >= usize::from(count) {
                    return;
                }
            }
            Ok(Err(error)) => tracing::warn!(%error, "the processes of this pod cannot be seen"),
            Err(error) => tracing::warn!(%error, "the processes of this pod were not looked at"),
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// The first process of each container but the sidecar's own, which is `user`'s.
fn others(proc: &Path, user: u32) -> io::Result<HashSet<u32>> {
    let mut found = HashSet::new();
    for entry in fs::read_dir(proc)? {
        let entry = entry?;
        let id = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        let Some(id) = id.filter(|id| *id != FIRST) else {
            continue;
        };
        // One that has ended meanwhile is none.
        let Ok(status) = fs::read_to_string(entry.path().join("status")) else {
            continue;
        };
        if is_first_of_other(&status, user) {
            found.insert(id);
        }
    }
    Ok(found)
}

/// What the runtime starts has no parent in the pod (proc(5), "PPid" and "Uid").
fn is_first_of_other(status: &str, user: u32) -> bool {
    let field = |name: &str| {
        let mut lines = status.lines();
        let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        value.split_ascii_whitespace().next()
    };
    let dead = matches!(field("State"), Some("Z" | "X"));
    let own = field("Uid").and_then(|real| real.parse().ok()) == Some(user);
    field("PPid") == Some("0") && !own && !dead
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(state: &str, parent: u32, user: u32) -> String {
        format!(
            "Name:\tpython3\nUmask:\t0022\nState:\t{state} (x)\nTgid:\t7\nPid:\t7\nPPid:\t{parent}\n\
             Uid:\t{user}\t{user}\t{user}\t{user}\nGid:\t0\t0\t0\t0\n"
        )
    }

    #[test]
    fn first_processes_of_other_containers_are_told_from_the_rest() {
        let table = [
            ("S", 0, 1000, true),
            ("R", 0, 0, true),
            ("S", 7, 1000, false),
            ("S", 0, 2102, false),
            ("Z", 0, 1000, false),
        ];
        for (state, parent, user, expected) in table {
            let status = status(state, parent, user);
            assert_eq!(is_first_of_other(&status, 2102), expected, "{status}");
        }
        assert!(!is_first_of_other("", 2102));
    }

    #[test]
    fn only_processes_are_looked_at() {
        let proc = tempfile::tempdir().expect("a directory");
        let add = |name: &str, status: &str| {
            fs::create_dir(proc.path().join(name)).expect("a directory");
            fs::write(proc.path().join(name).join("status"), status).expect("a file");
        };
        add("1", &status("S", 0, 65535));
        add("12", &status("S", 0, 1000));
        add("13", &status("S", 12, 1000));
        add("self", &status("S", 0, 1000));
        fs::create_dir(proc.path().join("14")).expect("a directory");
        let found = others(proc.path(), 2102).expect("read");
        assert_eq!(found, HashSet::from([12]));
    }

    #[test]
    fn this_machine_can_be_looked_at() {
        others(Path::new(PROC), 2102).expect("/proc");
    }
}
