//! The state directory, kept over restarts: what was allocated, and copies of good manifests for
//! when a restart finds them bad.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::services::{Allocations, Assignment};
use crate::model::ObjectName;

const FILE: &str = "allocations.json";
const LAST_GOOD: &str = "last-good";

/// Tells which directory the copies are of.
const OWNER: &str = ".of";

/// The state directory, or none to keep state in memory only.
pub(super) struct StateDir {
    dir: Option<PathBuf>,
    /// What the file holds, as far as we know.
    saved: Option<Allocations>,
}

/// The state file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum StateError {
    #[error("{}: cannot read allocations, so they are made anew: {source}", path.display())]
    Load { path: PathBuf, source: io::Error },
    #[error("{}: cannot save allocations: {source}", path.display())]
    Save { path: PathBuf, source: io::Error },
    #[error("{}: cannot keep a copy of a good manifest: {source}", path.display())]
    Remember { path: PathBuf, source: io::Error },
}

/// The file, Services by `namespace/name`.
#[derive(Default, Serialize, Deserialize)]
struct Content {
    services: BTreeMap<String, Assignment>,
}

impl StateDir {
    pub(super) fn new(dir: Option<PathBuf>) -> Self {
        Self { dir, saved: None }
    }

    /// What was saved last; nothing if there is no file yet.
    pub(super) fn load(&mut self) -> Result<Allocations, StateError> {
        let Some(dir) = &self.dir else {
            return Ok(Allocations::new());
        };
        let path = dir.join(FILE);
        let allocations = match fs::read(&path) {
            Ok(bytes) => parse(&bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Allocations::new()),
            Err(error) => Err(error),
        };
        let allocations = allocations.map_err(|source| StateError::Load { path, source })?;
        self.saved = Some(allocations.clone());
        Ok(allocations)
    }

    /// Saves what differs from what was saved last.
    pub(super) fn save(&mut self, allocations: Allocations) -> Result<(), StateError> {
        let Some(dir) = &self.dir else {
            return Ok(());
        };
        if self.saved.as_ref() == Some(&allocations) {
            return Ok(());
        }
        write(dir, &allocations).map_err(|source| StateError::Save {
            path: dir.join(FILE),
            source,
        })?;
        self.saved = Some(allocations);
        Ok(())
    }
}

impl StateDir {
    /// The copies of good manifests of this directory, those that can be read. Copies of another
    /// directory's are dropped: they would come into force if this one were missing.
    pub(super) fn last_good(&self, manifests: &Path) -> BTreeMap<String, Vec<u8>> {
        let Some(dir) = self.dir.as_ref().map(|dir| dir.join(LAST_GOOD)) else {
            return BTreeMap::new();
        };
        let owner = std::path::absolute(manifests).unwrap_or_else(|_| manifests.to_owned());
        let owner = owner.as_os_str().as_encoded_bytes();
        if fs::read(dir.join(OWNER)).is_ok_and(|known| known == owner) {
            return copies(&dir);
        }
        // What fails here fails when a copy is made, and is told then.
        let _ = fs::remove_dir_all(&dir);
        let _ = fs::create_dir_all(&dir).and_then(|()| fs::write(dir.join(OWNER), owner));
        BTreeMap::new()
    }

    /// Keeps a copy of a manifest, none to drop it. A copy that is lost with the machine costs no
    /// more than the last good state of a file that is bad when the machine is back.
    pub(super) fn remember(&self, name: &str, content: Option<&[u8]>) -> Result<(), StateError> {
        let Some(dir) = &self.dir else {
            return Ok(());
        };
        let dir = dir.join(LAST_GOOD);
        let path = dir.join(name);
        let result = match content {
            Some(content) => fs::create_dir_all(&dir).and_then(|()| {
                let temporary = dir.join(format!(".{name}.new"));
                fs::write(&temporary, content)?;
                fs::rename(&temporary, &path)
            }),
            None => match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                Ok(()) | Err(_) => Ok(()),
            },
        };
        result.map_err(|source| StateError::Remember { path, source })
    }
}

fn copies(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(dir).ok();
    let copies = entries.into_iter().flatten().filter_map(|entry| {
        let entry = entry.ok()?;
        let name = entry.file_name().into_string().ok()?;
        let bytes = fs::read(entry.path()).ok()?;
        (!name.starts_with('.')).then_some((name, bytes))
    });
    copies.collect()
}

fn parse(bytes: &[u8]) -> io::Result<Allocations> {
    let Content { services } = serde_json::from_slice(bytes)?;
    let named = services.into_iter().map(|(name, assignment)| {
        let (namespace, name) = name
            .split_once('/')
            .ok_or_else(|| io::Error::other(format!("{name:?} is not namespace/name")))?;
        Ok((ObjectName::new(namespace, name), assignment))
    });
    named.collect()
}

/// Replaces the file whole, or not at all, even if the machine stops meanwhile.
fn write(dir: &Path, allocations: &Allocations) -> io::Result<()> {
    let services = allocations.iter();
    let services = services.map(|(name, assignment)| (name.to_string(), assignment.clone()));
    let content = Content {
        services: services.collect(),
    };
    let text = serde_json::to_string_pretty(&content)?;
    fs::create_dir_all(dir)?;
    let temporary = dir.join(format!(".{FILE}.new"));
    let mut file = File::create(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, dir.join(FILE))?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{model::Protocol, source::manifests::AssignedPort};

    fn allocations() -> Allocations {
        let assignment = Assignment {
            cluster_ips: vec!["10.96.1.2".parse().unwrap(), "fd00::1".parse().unwrap()],
            node_ports: vec![AssignedPort {
                name: "http".to_owned(),
                protocol: Protocol::Tcp,
                node_port: 30_123,
            }],
        };
        [(ObjectName::new("default", "web"), assignment)].into()
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("state");
        let mut state = StateDir::new(Some(dir.clone()));
        assert_eq!(state.load().unwrap(), Allocations::new());
        state.save(allocations()).unwrap();
        insta::assert_snapshot!(fs::read_to_string(dir.join(FILE)).unwrap(), @r#"
        {
          "services": {
            "default/web": {
              "clusterIPs": [
                "10.96.1.2",
                "fd00::1"
              ],
              "nodePorts": [
                {
                  "name": "http",
                  "protocol": "TCP",
                  "nodePort": 30123
                }
              ]
            }
          }
        }
        "#);
        assert_eq!(
            StateDir::new(Some(dir.clone())).load().unwrap(),
            allocations()
        );
        assert_eq!(fs::read_dir(dir).unwrap().count(), 1);
    }

    #[test]
    fn a_corrupt_file_is_an_error_and_then_replaced() {
        let dir = tempfile::tempdir().unwrap();
        for corrupt in [
            "",
            "{",
            "[]",
            r#"{"services": {"web": {"clusterIPs": []}}}"#,
        ] {
            fs::write(dir.path().join(FILE), corrupt).unwrap();
            let mut state = StateDir::new(Some(dir.path().to_owned()));
            assert!(state.load().is_err(), "{corrupt:?} was taken");
            state.save(allocations()).unwrap();
            assert_eq!(state.load().unwrap(), allocations());
        }
    }

    #[test]
    fn copies_of_manifests_are_of_one_directory() {
        let root = tempfile::tempdir().unwrap();
        let state = StateDir::new(Some(root.path().join("state")));
        let manifests = Path::new("/manifests");
        assert_eq!(state.last_good(manifests), BTreeMap::new());
        state.remember("gone.yaml", None).unwrap();
        for (name, content) in [("a.yaml", "1"), ("b.yaml", "2"), ("a.yaml", "3")] {
            state.remember(name, Some(content.as_bytes())).unwrap();
        }
        state.remember("b.yaml", None).unwrap();
        let expected = [("a.yaml".to_owned(), b"3".to_vec())];
        assert_eq!(state.last_good(manifests), expected.into());
        for other in ["/other", "/manifests"] {
            assert_eq!(state.last_good(Path::new(other)), BTreeMap::new());
        }
    }

    #[test]
    fn a_failed_save_is_tried_again() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("state");
        fs::write(&dir, "in the way").unwrap();
        let mut state = StateDir::new(Some(dir.clone()));
        let error = state.save(allocations()).unwrap_err().to_string();
        assert!(error.contains("cannot save allocations"), "{error}");
        fs::remove_file(&dir).unwrap();
        state.save(allocations()).unwrap();
        assert_eq!(state.load().unwrap(), allocations());
    }
}
