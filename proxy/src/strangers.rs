//! Looks for sockets that have the sidecar's user and are another process's. What runs as that user is
//! not intercepted: its calls pass the sidecar, without an identity and without policy. Nothing but
//! the rules of `init` knows it, so whoever does it by mistake is told here.
//!
//! Reads `/proc/net/tcp` and `/proc/self/fd` on a thread that carries no traffic. What a process does
//! not have open at the moment of a look is not seen.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::sync::Arc;
use std::time::Duration;

use crate::telemetry::metrics::Metrics;

/// Between two looks: each walks through every TCP socket of the namespace.
const INTERVAL: Duration = Duration::from_secs(60);
/// A socket of ours may be opened or closed during a look. Whoever is a stranger twice is one.
const AGAIN: Duration = Duration::from_secs(1);
const TABLES: [&str; 2] = ["/proc/net/tcp", "/proc/net/tcp6"];

/// A socket that has our user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Entry {
    inode: u64,
    local_port: u16,
}

/// Looks now and then, and says what it found in a metric and, when there is somebody new, in the log.
/// `after` is waited for first: another sidecar, which is replaced, may have connections for as long.
pub async fn watch(metrics: Arc<Metrics>, after: Duration) {
    tokio::time::sleep(after).await;
    let mut known = HashSet::new();
    loop {
        match twice().await {
            Ok(strangers) => {
                let count = i64::try_from(strangers.len()).unwrap_or(i64::MAX);
                metrics.foreign_sockets.set(count);
                if let Some(stranger) = strangers.iter().find(|entry| !known.contains(*entry)) {
                    tracing::warn!(
                        sockets = count,
                        port = stranger.local_port,
                        "another program runs as this sidecar's user: its connections pass the \
                         sidecar, without identity and policy; give it another user"
                    );
                }
                known = strangers;
            }
            Err(error) => {
                tracing::info!(%error, "whether another program runs as this sidecar's user cannot be seen");
                return;
            }
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

async fn twice() -> io::Result<HashSet<Entry>> {
    let first = look().await?;
    if first.is_empty() {
        return Ok(first);
    }
    tokio::time::sleep(AGAIN).await;
    let second = look().await?;
    Ok(first.intersection(&second).copied().collect())
}

async fn look() -> io::Result<HashSet<Entry>> {
    tokio::task::spawn_blocking(strangers)
        .await
        .map_err(io::Error::other)?
}

fn strangers() -> io::Result<HashSet<Entry>> {
    let user = rustix::process::geteuid().as_raw();
    let mut entries = HashSet::new();
    for table in TABLES {
        match File::open(table) {
            Ok(file) => read(BufReader::new(file), user, &mut entries)?,
            // Without IPv6 in the kernel there is none of its.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    // After the tables: what was opened since is in none of them.
    let own = own_sockets()?;
    entries.retain(|entry| !own.contains(&entry.inode));
    Ok(entries)
}

/// Adds what is `user`'s of one table (Linux, Documentation/networking/proc_net_tcp.rst).
fn read(table: impl BufRead, user: u32, entries: &mut HashSet<Entry>) -> io::Result<()> {
    for line in table.lines().skip(1) {
        entries.extend(entry(&line?, user));
    }
    Ok(())
}

fn entry(line: &str, user: u32) -> Option<Entry> {
    let mut fields = line.split_ascii_whitespace();
    let (_, local_port) = fields.nth(1)?.rsplit_once(':')?;
    // Between: remote address, state, queues, timer and retransmissions.
    if fields.nth(5)?.parse() != Ok(user) {
        return None;
    }
    let inode = fields.nth(1)?.parse().ok()?;
    // 0: closed by its process, or not accepted yet.
    (inode != 0).then_some(Entry {
        inode,
        local_port: u16::from_str_radix(local_port, 16).ok()?,
    })
}

/// The inodes of this process's sockets.
fn own_sockets() -> io::Result<HashSet<u64>> {
    let mut inodes = HashSet::new();
    for descriptor in fs::read_dir("/proc/self/fd")? {
        // One that has been closed meanwhile has no name any more.
        let Ok(target) = fs::read_link(descriptor?.path()) else {
            continue;
        };
        let inode = target
            .to_str()
            .and_then(|name| name.strip_prefix("socket:[")?.strip_suffix(']'))
            .and_then(|inode| inode.parse::<u64>().ok());
        inodes.extend(inode);
    }
    Ok(inodes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";
    const V4: &str = "   0: 0100007F:3A98 00000000:0000 0A 00000000:00000000 00:00000000 00000000  2102        0 7201 1 0000000000000000 100 0 0 10 0\n   \
        1: 0500580A:C001 0900580A:0050 01 00000000:00000000 02:000A7214 00000000  2102        0 7202 2 0000000000000000 20 4 30 10 -1\n   \
        2: 0500580A:1F90 0900580A:A000 01 00000000:00000000 00:00000000 00000000  1000        0 7203 1 0000000000000000 20 4 30 10 -1\n   \
        3: 0500580A:1F90 0900580A:A001 06 00000000:00000000 03:000012CA 00000000  2102        0 0 3 0000000000000000\n";
    const V6: &str = "   0: 00000000000000000000000000000000:3A9E 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000  2102        0 7204 1 0000000000000000 100 0 0 10 0\n";

    fn found(table: &str) -> Vec<(u64, u16)> {
        let mut entries = HashSet::new();
        read(format!("{HEAD}{table}").as_bytes(), 2102, &mut entries).expect("text");
        let mut found: Vec<_> = entries
            .iter()
            .map(|entry| (entry.inode, entry.local_port))
            .collect();
        found.sort_unstable();
        found
    }

    #[test]
    fn sockets_of_one_user_are_read() {
        assert_eq!(found(V4), [(7201, 15000), (7202, 49153)]);
        assert_eq!(found(V6), [(7204, 15006)]);
    }

    #[test]
    fn what_is_no_line_of_the_table_is_nobodys() {
        for line in [
            "",
            "0:",
            "0: x y",
            "0: 0:zz 0:0 0A 0:0 00:0 0 2102 0 7",
            "0: 0:1 0:0 0A 0:0 00:0 0 2102 0 x",
            "0: 0:1 0:0 0A 0:0 00:0 0 2102",
        ] {
            assert_eq!(entry(line, 2102), None, "{line}");
        }
        assert!(entry("0: 0:1 0:0 0A 0:0 00:0 0 2102 0 7", 2102).is_some());
    }

    #[test]
    fn own_sockets_are_no_strangers() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("its address").port();
        let found = strangers().expect("/proc");
        assert!(found.iter().all(|entry| entry.local_port != port));
    }
}
