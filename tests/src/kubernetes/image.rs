//! Images, made out of files by `tests/kubernetes/image`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::process::{command, run};
use crate::programs::{find, root, target};

/// An image with programs of Debian's, and the libraries that they need: busybox as the shell and some
/// commands, curl, nft and nginx. Its user is not root.
pub const TOOLS: &str = "outrider.test/tools:1";

/// An image to make.
#[derive(Debug)]
pub struct Image {
    name: String,
    arguments: Vec<String>,
}

impl Image {
    /// An empty one, whose name has a tag.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            arguments: Vec::new(),
        }
    }

    /// With a file, at this path.
    pub fn file(self, file: &Path, path: &str) -> Self {
        let argument = format!("{}:{path}", file.display());
        self.arguments(&[&argument])
    }

    /// With an option that `tests/kubernetes/image --help` knows.
    pub fn option(self, option: &str, value: &str) -> Self {
        self.arguments(&[option, value])
    }

    /// With the shared libraries that its programs need.
    pub fn libraries(self) -> Self {
        self.arguments(&["--libraries"])
    }

    fn arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments
            .extend(arguments.iter().map(|&argument| argument.to_owned()));
        self
    }

    /// Writes the archive, for `Cluster::load`.
    pub fn make(&self) -> Result<PathBuf> {
        let folder = target().join("images");
        std::fs::create_dir_all(&folder)?;
        let archive = folder.join(format!("{}.tar", self.name.replace(['/', ':'], "_")));
        let mut image = command(&root().join("tests/kubernetes/image"))?;
        image.arg(&self.name).arg(&archive).args(&self.arguments);
        run(&mut image, super::LIMIT)?
            .success()
            .with_context(|| format!("make the image {}", self.name))?;
        Ok(archive)
    }
}

/// The archive of [`TOOLS`].
pub(super) fn tools() -> Result<PathBuf> {
    let mut image = Image::new(TOOLS)
        .libraries()
        .option("--user", "65532")
        .option("--entrypoint", "/bin/busybox")
        .option("--folder", "/tmp");
    for (program, package, path) in [
        ("busybox", "busybox", "/bin/busybox"),
        ("curl", "curl", "/usr/bin/curl"),
        ("nginx", "nginx-light", "/usr/sbin/nginx"),
        ("nft", "nftables", "/usr/sbin/nft"),
    ] {
        image = image.file(&find(program, package)?, path);
    }
    for applet in ["sh", "cat", "id", "nslookup", "sleep", "touch"] {
        image = image.option("--link", &format!("/bin/{applet}=busybox"));
    }
    image.make()
}
