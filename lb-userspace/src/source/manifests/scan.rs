//! A look at the directory: which files are there and which changed since the last look.

use std::{
    collections::BTreeMap,
    fs::{self, File, Metadata},
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::files::{FileChange, Update};

/// The largest manifest file that is read.
const MAX_FILE: u64 = 16 << 20;

/// A file changed this shortly before it was read may change again without its times telling.
const RACY: Duration = Duration::from_secs(1);

/// How long a directory that was emptied is given to vanish altogether.
const SECOND_THOUGHT: Duration = Duration::from_millis(100);

/// The directory as last seen.
pub(super) struct Scanner {
    dir: PathBuf,
    seen: BTreeMap<String, Seen>,
}

#[derive(PartialEq, Eq)]
enum Seen {
    /// Its content's hash, and its stamp unless another look is due in any case.
    Content(u64, Option<Stamp>),
    Unreadable(String),
}

/// What changes when a file does.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Scanner {
    /// A directory whose files last were as remembered.
    pub(super) fn new(dir: PathBuf, remembered: &BTreeMap<String, Vec<u8>>) -> Self {
        let seen = remembered.iter();
        let seen = seen.map(|(name, bytes)| (name.clone(), Seen::Content(hash(bytes), None)));
        Self {
            dir,
            seen: seen.collect(),
        }
    }

    /// Looks at every file but those being written.
    pub(super) fn look(&mut self, being_written: impl Fn(&str) -> bool) -> Update {
        match self.settled_names() {
            Ok(names) => Update {
                files: self.changes(&names, being_written),
                problems: Vec::new(),
            },
            Err(error) => Update {
                files: BTreeMap::new(),
                problems: vec![format!(
                    "{}: cannot be read, so what is in force stays: {error}",
                    self.dir.display()
                )],
            },
        }
    }

    /// Names of the manifests. `rm -r` empties a directory before it removes it: what goes all at
    /// once may be on its way to vanish, and a vanished directory takes nothing out of force.
    fn settled_names(&self) -> io::Result<Vec<String>> {
        let names = names(&self.dir)?;
        if !names.is_empty() || self.seen.is_empty() {
            return Ok(names);
        }
        thread::sleep(SECOND_THOUGHT);
        self::names(&self.dir)
    }

    fn changes(
        &mut self,
        names: &[String],
        being_written: impl Fn(&str) -> bool,
    ) -> BTreeMap<String, FileChange> {
        let mut changes = BTreeMap::new();
        let mut before = std::mem::take(&mut self.seen);
        for name in names {
            let seen = before.remove(name);
            if being_written(name) {
                self.seen.extend(seen.map(|seen| (name.clone(), seen)));
                continue;
            }
            let (seen, change) = look_at(&self.dir.join(name), seen);
            self.seen.extend(seen.map(|seen| (name.clone(), seen)));
            changes.extend(change.map(|change| (name.clone(), change)));
        }
        changes.extend(before.into_keys().map(|name| (name, FileChange::Gone)));
        changes
    }
}

/// Manifests are visible files that are called so; this leaves out what editors keep beside them
/// and the `..data` of a mounted `ConfigMap`, whose files are symbolic links through it.
fn names(dir: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let extension = name.rsplit_once('.').map(|(_, extension)| extension);
        if !name.starts_with('.') && matches!(extension, Some("yaml" | "yml" | "json")) {
            names.push(name);
        }
    }
    Ok(names)
}

/// What a file is, and the change if it is another than it was.
fn look_at(path: &Path, before: Option<Seen>) -> (Option<Seen>, Option<FileChange>) {
    let started = SystemTime::now();
    let result = fs::metadata(path).and_then(|metadata| {
        let stamp = Stamp::of(&metadata);
        if matches!(&before, Some(Seen::Content(_, Some(known))) if *known == stamp) {
            return Ok(None);
        }
        read(path, &metadata).map(|bytes| Some((bytes, stamp)))
    });
    match result {
        Ok(None) => (before, None),
        Ok(Some((bytes, stamp))) => {
            let hash = hash(&bytes);
            let same = matches!(before, Some(Seen::Content(known, _)) if known == hash);
            let seen = Seen::Content(hash, stamp.settled(started).then_some(stamp));
            (Some(seen), (!same).then_some(FileChange::Content(bytes)))
        }
        Err(_) if fs::symlink_metadata(path).is_err() => {
            (None, before.is_some().then_some(FileChange::Gone))
        }
        Err(error) => {
            let seen = Seen::Unreadable(error.to_string());
            let same = before.as_ref() == Some(&seen);
            let change = FileChange::Unreadable(error.to_string());
            (Some(seen), (!same).then_some(change))
        }
    }
}

fn read(path: &Path, metadata: &Metadata) -> io::Result<Vec<u8>> {
    if metadata.is_dir() {
        return Err(io::Error::other("a directory, not a manifest"));
    }
    if !metadata.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?
        .take(MAX_FILE + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        let limit = MAX_FILE >> 20;
        return Err(io::Error::other(format!("larger than {limit} MiB")));
    }
    Ok(bytes)
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether a change after this moment is sure to change the stamp.
    fn settled(&self, now: SystemTime) -> bool {
        let (seconds, nanos) = self.changed;
        let changed = Duration::new(
            u64::try_from(seconds).unwrap_or_default(),
            u32::try_from(nanos).unwrap_or_default(),
        );
        now.duration_since(UNIX_EPOCH)
            .is_ok_and(|now| now.saturating_sub(changed) > RACY)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn scanner(dir: &Path) -> Scanner {
        Scanner::new(dir.to_owned(), &BTreeMap::new())
    }

    fn look(scanner: &mut Scanner) -> BTreeMap<String, FileChange> {
        let update = scanner.look(|_| false);
        assert_eq!(update.problems, Vec::<String>::new());
        update.files
    }

    fn content(text: &str) -> FileChange {
        FileChange::Content(text.into())
    }

    fn one(name: &str, change: FileChange) -> BTreeMap<String, FileChange> {
        BTreeMap::from([(name.to_owned(), change)])
    }

    #[test]
    fn only_changes_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let mut scanner = scanner(dir.path());
        assert_eq!(look(&mut scanner), BTreeMap::new());
        let web = dir.path().join("web.yaml");
        fs::write(&web, "a").unwrap();
        assert_eq!(look(&mut scanner), one("web.yaml", content("a")));
        assert_eq!(look(&mut scanner), BTreeMap::new());
        fs::write(&web, "b").unwrap();
        assert_eq!(look(&mut scanner), one("web.yaml", content("b")));
        fs::write(dir.path().join("other.json"), "{}").unwrap();
        fs::remove_file(web).unwrap();
        let expected = [
            ("other.json".to_owned(), content("{}")),
            ("web.yaml".to_owned(), FileChange::Gone),
        ];
        assert_eq!(look(&mut scanner), BTreeMap::from(expected));
    }

    #[test]
    fn what_is_as_remembered_is_no_change() {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in [("same.yaml", "a"), ("other.yaml", "b"), ("new.yaml", "c")] {
            fs::write(dir.path().join(name), content).unwrap();
        }
        let remembered = ["same.yaml", "other.yaml", "gone.yaml"];
        let remembered = remembered.map(|name| (name.to_owned(), b"a".to_vec()));
        let mut scanner = Scanner::new(dir.path().to_owned(), &remembered.into());
        let expected = [
            ("gone.yaml".to_owned(), FileChange::Gone),
            ("new.yaml".to_owned(), content("c")),
            ("other.yaml".to_owned(), content("b")),
        ];
        assert_eq!(look(&mut scanner), BTreeMap::from(expected));
    }

    #[test]
    fn what_is_no_manifest_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        for name in [
            ".web.yaml.swp",
            ".hidden.yaml",
            "web.yaml~",
            "#web.yaml#",
            "README",
            "x.txt",
        ] {
            fs::write(dir.path().join(name), "a").unwrap();
        }
        assert_eq!(look(&mut scanner(dir.path())), BTreeMap::new());
    }

    #[test]
    fn a_mounted_config_map_is_followed_through_its_links() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for version in ["..1", "..2"] {
            fs::create_dir(at(version)).unwrap();
            fs::write(at(version).join("web.yaml"), version).unwrap();
        }
        symlink("..1", at("..data")).unwrap();
        symlink("..data/web.yaml", at("web.yaml")).unwrap();
        let mut scanner = scanner(dir.path());
        assert_eq!(look(&mut scanner), one("web.yaml", content("..1")));
        symlink("..2", at("..data_tmp")).unwrap();
        fs::rename(at("..data_tmp"), at("..data")).unwrap();
        assert_eq!(look(&mut scanner), one("web.yaml", content("..2")));
    }

    #[test]
    fn what_cannot_be_read_is_told_once() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("dir.yaml")).unwrap();
        symlink("nowhere", dir.path().join("link.yaml")).unwrap();
        let big = File::create(dir.path().join("big.yaml")).unwrap();
        big.set_len(MAX_FILE + 1).unwrap();
        let mut scanner = scanner(dir.path());
        let reasons: Vec<(String, FileChange)> = look(&mut scanner).into_iter().collect();
        let unreadable =
            |name: &str, why: &str| (name.to_owned(), FileChange::Unreadable(why.to_owned()));
        let expected = [
            unreadable("big.yaml", "larger than 16 MiB"),
            unreadable("dir.yaml", "a directory, not a manifest"),
            unreadable("link.yaml", "No such file or directory (os error 2)"),
        ];
        assert_eq!(reasons, expected);
        assert_eq!(look(&mut scanner), BTreeMap::new());
    }

    #[test]
    fn a_vanished_directory_is_a_problem_and_no_change() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("manifests");
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("web.yaml"), "a").unwrap();
        let mut scanner = scanner(&dir);
        look(&mut scanner);
        fs::remove_dir_all(&dir).unwrap();
        let update = scanner.look(|_| false);
        assert_eq!(update.files, BTreeMap::new());
        assert_eq!(update.problems.len(), 1);
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("web.yaml"), "b").unwrap();
        assert_eq!(look(&mut scanner), one("web.yaml", content("b")));
    }

    #[test]
    fn a_file_being_written_keeps_its_last_content() {
        let dir = tempfile::tempdir().unwrap();
        let web = dir.path().join("web.yaml");
        fs::write(&web, "a").unwrap();
        let mut scanner = scanner(dir.path());
        look(&mut scanner);
        fs::write(&web, "").unwrap();
        assert_eq!(
            scanner.look(|name| name == "web.yaml").files,
            BTreeMap::new()
        );
        fs::write(&web, "b").unwrap();
        assert_eq!(look(&mut scanner), one("web.yaml", content("b")));
    }
}
