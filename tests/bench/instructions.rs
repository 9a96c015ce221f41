//! Instructions for a request: what callgrind counts in both sidecars while one client asks for the
//! same thing again and again. Unlike time it is nearly the same in every run.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_tests::process::{command, run};
use mesh_tests::programs::{find, root};
use mesh_tests::wait::eventually;

use crate::backend::{Backend, Entry};
use crate::open::{Client, REQUEST};
use crate::systems::System;

/// What is committed: a line for each side, "SIDE ENTRY INSTRUCTIONS".
const FILE: &str = "tests/bench/instructions.txt";
/// Requests before anything is counted: connections, caches and tables are made.
const WARM: u64 = 200;
const COUNTED: u64 = 1000;
/// Under valgrind everything takes fifty times as long.
const LIMIT: Duration = Duration::from_secs(60);

/// `folder`: where callgrind writes, a file for each process.
pub(crate) fn measure(folder: &Path, write: bool) -> Result<()> {
    let backend = Backend::start(None)?;
    let mut pair = System::Outrider.prepare(&backend)?.start()?;
    let committed = committed()?;
    let mut text = String::new();
    println!("instructions for a request      now   committed");
    for entry in [Entry::Http, Entry::Tcp] {
        let mut client = Client::open(pair.entry(entry).context("an entry")?)?;
        let mut ask = |times| (0..times).try_for_each(|_| client.ask(REQUEST).map(drop));
        ask(WARM)?;
        for pid in pair.pids() {
            control(folder, "--zero", *pid)?;
        }
        ask(COUNTED)?;
        for (side, pid) in ["outbound", "inbound"].into_iter().zip(pair.pids()) {
            let each = instructions(folder, *pid)? / COUNTED;
            let name = format!("{side} {}", entry.name());
            let before = committed.get(&name);
            let change = before.map_or_else(String::new, |before| {
                let percent = 100.0 * (each as f64 / *before as f64 - 1.0);
                format!("{before:>12}  {percent:+.1} %")
            });
            println!("{name:<26} {each:>8}{change}");
            text.push_str(&format!("{name} {each}\n"));
        }
        pair.lives()?;
    }
    if write {
        fs::write(root().join(FILE), text)?;
    }
    Ok(())
}

fn committed() -> Result<BTreeMap<String, u64>> {
    let text = fs::read_to_string(root().join(FILE)).unwrap_or_default();
    text.lines()
        .map(|line| {
            let (name, number) = line
                .rsplit_once(' ')
                .context("a figure at the line's end")?;
            Ok((name.to_owned(), number.parse()?))
        })
        .collect()
}

/// Has callgrind do something now.
fn control(folder: &Path, what: &str, pid: u32) -> Result<()> {
    let mut control = command(&find("callgrind_control", "valgrind")?)?;
    control
        .arg(format!("--vgdb-prefix={}", folder.join("vgdb").display()))
        .args([what, &pid.to_string()]);
    run(&mut control, LIMIT)?.success()?;
    Ok(())
}

/// Since the last `--zero`.
fn instructions(folder: &Path, pid: u32) -> Result<u64> {
    let before = dumps(folder, pid)?;
    control(folder, "--dump", pid)?;
    eventually("callgrind writes what it counted", LIMIT, || {
        let mut new = dumps(folder, pid)?;
        new.retain(|dump| !before.contains(dump));
        let Some(dump) = new.first() else {
            return Ok(None);
        };
        let text = fs::read_to_string(folder.join(dump))?;
        let total = text.lines().find_map(|line| line.strip_prefix("totals: "));
        let total = total.context("not whole")?;
        Ok(Some(total.trim().parse::<u64>()?))
    })
}

/// The files that callgrind has written of a process: PID.1, PID.2, …
fn dumps(folder: &Path, pid: u32) -> Result<Vec<String>> {
    let mut dumps = Vec::new();
    for file in fs::read_dir(folder)? {
        let name = file?.file_name().to_string_lossy().into_owned();
        if name.starts_with(&format!("{pid}.")) {
            dumps.push(name);
        }
    }
    ensure!(dumps.len() < 100, "too many dumps");
    Ok(dumps)
}
