//! Reads a directory of YAML: `*.yaml` and `*.yml`, recursively, in the order of their names, hidden
//! entries skipped, symbolic links followed (a ConfigMap is made of them). Blocking; `std::fs` only.
//!
//! Reading happens in two steps, so that a watcher can see that nothing has changed without parsing:
//! [`collect`] takes the text of every file, and [`Files::parse`] makes objects of it.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use outrider_api::manifest::{self, Location, Object, Problem};

/// One byte more than a file may have; whoever parses it says so.
const MAX_FILE_BYTES: u64 = manifest::TEXT_MAX as u64 + 1;
/// All files together may be this large.
const MAX_TOTAL_BYTES: u64 = 64 * 1024 * 1024;
/// So many files are read.
const MAX_FILES: usize = 10_000;
/// So deep are folders followed.
const MAX_DEPTH: usize = 16;

/// Reads every object in `dir`.
///
/// # Errors
/// Everything that is wrong with the directory and its files, not only the first. A directory
/// without any YAML is a problem too, as is an empty file (which may just be being written): neither
/// may pass for a mesh whose policies are gone.
pub fn read(dir: &Path) -> Result<Vec<Object>, Vec<Problem>> {
    collect(dir).parse()
}

/// The text of every file of a directory, or why it could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    files: Vec<File>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct File {
    path: Arc<Path>,
    content: Result<Vec<u8>, String>,
}

impl Files {
    /// The objects in these files.
    ///
    /// # Errors
    /// Every problem of every file.
    pub fn parse(&self) -> Result<Vec<Object>, Vec<Problem>> {
        let mut objects = Vec::new();
        let mut problems = Vec::new();
        for file in &self.files {
            match &file.content {
                Err(message) => problems.push(unreadable(&file.path, message)),
                Ok(bytes) => match manifest::parse_bytes(&file.path, bytes) {
                    Ok(found) => objects.extend(found),
                    Err(found) => problems.extend(found),
                },
            }
        }
        if problems.is_empty() {
            Ok(objects)
        } else {
            Err(problems)
        }
    }

    /// How many files there are.
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }
}

/// Takes the text of every file in `dir`. What cannot be read is part of the answer.
pub fn collect(dir: &Path) -> Files {
    let mut walk = Walk::default();
    walk.folder(dir, 0);
    if walk.files.is_empty() {
        walk.refuse(
            dir,
            "there is no file here that ends in .yaml or .yml: expected at least one",
        );
    }
    Files { files: walk.files }
}

#[derive(Default)]
struct Walk {
    files: Vec<File>,
    total: u64,
    /// Folders as the file system names them, so that a link to a parent is followed once.
    seen: BTreeSet<PathBuf>,
    full: bool,
}

impl Walk {
    fn folder(&mut self, folder: &Path, depth: usize) {
        match fs::canonicalize(folder) {
            Ok(real) => {
                if !self.seen.insert(real) {
                    return;
                }
            }
            Err(error) => return self.refuse_folder(folder, &error),
        }
        let entries = match entries(folder) {
            Ok(entries) => entries,
            Err(error) => return self.refuse_folder(folder, &error),
        };
        for path in entries {
            if self.full {
                return;
            }
            match fs::metadata(&path) {
                Ok(metadata) if metadata.is_dir() && depth >= MAX_DEPTH => {
                    self.refuse(&path, &format!("folders nest deeper than {MAX_DEPTH}"));
                }
                Ok(metadata) if metadata.is_dir() => self.folder(&path, depth + 1),
                _ if !is_yaml(&path) => {}
                Ok(metadata) if metadata.is_file() => self.file(&path),
                Ok(_) => self.refuse(&path, "expected a regular file"),
                Err(error) => self.refuse(&path, &error.to_string()),
            }
        }
    }

    fn file(&mut self, path: &Path) {
        if self.files.len() >= MAX_FILES {
            self.full = true;
            return self.refuse(path, &format!("more than {MAX_FILES} files"));
        }
        match read_file(path) {
            Err(error) => self.refuse(path, &error.to_string()),
            Ok(bytes) => {
                self.total += bytes.len() as u64;
                if self.total > MAX_TOTAL_BYTES {
                    self.full = true;
                    return self.refuse(
                        path,
                        &format!("the files are larger than {MAX_TOTAL_BYTES} bytes together"),
                    );
                }
                self.files.push(File {
                    path: path.into(),
                    content: Ok(bytes),
                });
            }
        }
    }

    fn refuse_folder(&mut self, folder: &Path, error: &io::Error) {
        self.refuse(folder, &format!("{error}: expected a directory of YAML"));
    }

    fn refuse(&mut self, path: &Path, message: &str) {
        self.files.push(File {
            path: path.into(),
            content: Err(message.to_owned()),
        });
    }
}

fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

pub(super) fn is_yaml(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension == "yaml" || extension == "yml")
}

fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?
        .take(MAX_FILE_BYTES)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn unreadable(path: &Arc<Path>, message: &str) -> Problem {
    Problem::new(Location::whole(Arc::clone(path)), "", message)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn names(files: &Files, dir: &Path) -> Vec<(String, bool)> {
        files
            .files
            .iter()
            .map(|file| {
                let path = file.path.strip_prefix(dir).unwrap();
                (path.display().to_string(), file.content.is_ok())
            })
            .collect()
    }

    fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        dir
    }

    #[test]
    fn files_are_read_in_order_and_hidden_ones_skipped() {
        let dir = directory(&[
            ("b.yaml", "# b"),
            ("a/z.yml", "# z"),
            ("a/.hidden.yaml", "{"),
            (".git/x.yaml", "{"),
            ("notes.txt", "{"),
        ]);
        let files = collect(dir.path());
        assert_eq!(
            names(&files, dir.path()),
            [("a/z.yml".to_owned(), true), ("b.yaml".to_owned(), true)]
        );
    }

    #[test]
    fn what_cannot_be_read_is_part_of_the_answer() {
        let dir = directory(&[
            ("empty.yaml", ""),
            (
                "good.yaml",
                "{apiVersion: v1, kind: ServiceAccount, metadata: {name: a}}",
            ),
        ]);
        fs::write(dir.path().join("latin.yaml"), b"a: \xe9").unwrap();
        fs::create_dir(dir.path().join("folder.yaml")).unwrap();
        symlink("nowhere", dir.path().join("broken.yaml")).unwrap();
        let files = collect(dir.path());
        assert_eq!(
            names(&files, dir.path()),
            [
                ("broken.yaml".to_owned(), false),
                ("empty.yaml".to_owned(), true),
                ("good.yaml".to_owned(), true),
                ("latin.yaml".to_owned(), true),
            ]
        );
        let problems = files.parse().unwrap_err();
        assert_eq!(problems.len(), 3);
        assert!(problems[2].message.contains("UTF-8"), "{}", problems[2]);
    }

    #[test]
    fn nothing_at_all_is_a_problem() {
        let dir = directory(&[]);
        assert_eq!(read(dir.path()).unwrap_err().len(), 1);
        assert_eq!(read(&dir.path().join("gone")).unwrap_err().len(), 1);
    }

    #[test]
    fn a_config_map_is_followed_and_a_loop_is_not() {
        let dir = directory(&[("..2026/mesh.yaml", "# mesh")]);
        symlink("..2026", dir.path().join("..data")).unwrap();
        symlink("..data/mesh.yaml", dir.path().join("mesh.yaml")).unwrap();
        symlink(".", dir.path().join("loop")).unwrap();
        let files = collect(dir.path());
        assert_eq!(names(&files, dir.path()), [("mesh.yaml".to_owned(), true)]);
    }

    #[test]
    fn a_file_that_is_too_large_is_a_problem() {
        let dir = directory(&[]);
        let file = fs::File::create(dir.path().join("large.yaml")).unwrap();
        file.set_len(MAX_FILE_BYTES * 2).unwrap();
        assert_eq!(read(dir.path()).unwrap_err().len(), 1);
    }
}
