//! The container files, built by a real tool: from nothing, with one static program each.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use mesh_tests::process::{command, run};
use mesh_tests::programs::{find, root};
use mesh_tests::wait::PATIENCE;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Only what has changed since `tests/run` made its own images is compiled.
const LIMIT_OF_BUILD: Duration = Duration::from_secs(900);

#[test]
fn container_files_build_images_of_one_static_program() -> Result<()> {
    let storage = Storage::new()?;
    let mut build = storage.command(&root().join("manifests/images/build"))?;
    build.args([
        "--tool",
        "buildah",
        "--profile",
        "release",
        "--tag",
        "built",
    ]);
    run(&mut build, LIMIT_OF_BUILD)?.success()?;
    for (program, user) in [
        ("outrider-proxy", "2102:2102"),
        ("outrider-control-plane", "65532:65532"),
    ] {
        let image = format!("localhost/{program}:built");
        let entrypoint = format!("/{program}");
        let about = storage.buildah(&["inspect", "--type", "image", &image])?;
        let about: Value = serde_json::from_str(&about)?;
        let config = &about["OCIv1"]["config"];
        assert_eq!(config["User"], user, "{config:#}");
        assert_eq!(config["Entrypoint"], json!([entrypoint]), "{config:#}");

        let container = storage.buildah(&["from", "--pull-never", &image])?;
        let files = storage.buildah(&["mount", container.trim()])?;
        let files = Path::new(files.trim());
        assert_eq!(names(files)?, BTreeSet::from([program.to_owned()]));
        // With nothing else there, it runs only if it needs nothing else.
        let mut version = command(&find("chroot", "coreutils")?)?;
        version.arg(files).args([&entrypoint, "--version"]);
        let said = run(&mut version, PATIENCE)?.success()?.stdout;
        assert!(said.starts_with(program), "{said}");
        storage.buildah(&["rm", container.trim()])?;
    }
    Ok(())
}

/// Where buildah keeps what it makes: a place that is gone with the test.
struct Storage {
    buildah: PathBuf,
    folder: TempDir,
}

impl Storage {
    fn new() -> Result<Self> {
        let storage = Self {
            buildah: find("buildah", "buildah")?,
            folder: tempfile::tempdir()?,
        };
        let at = |name: &str| storage.folder.path().join(name);
        let settings = format!(
            "[storage]\ndriver = \"vfs\"\ngraphroot = {:?}\nrunroot = {:?}\n",
            at("graph"),
            at("run"),
        );
        fs::write(at("storage.conf"), settings)?;
        Ok(storage)
    }

    fn command(&self, program: &Path) -> Result<Command> {
        // What its settings do not move, a cache, goes with a mount that nobody else sees.
        let alone = "mount -t tmpfs none /var/lib && exec \"$@\"";
        let mut command = command(&find("unshare", "util-linux")?)?;
        command
            .args(["--mount", "--", "sh", "-c", alone, "sh"])
            .arg(program);
        let settings = self.folder.path().join("storage.conf");
        command.env("CONTAINERS_STORAGE_CONF", settings);
        Ok(command)
    }

    fn buildah(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.command(&self.buildah)?;
        let finished = run(command.args(arguments), PATIENCE)?.success();
        Ok(finished
            .with_context(|| format!("buildah {arguments:?}"))?
            .stdout)
    }
}

/// What is in a folder.
fn names(folder: &Path) -> Result<BTreeSet<String>> {
    let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    entries
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect()
}
