//! The file of `--config`, after it was read: like kube-proxy, the agent ends when it says something
//! else, to be started again with that (SEMANTICS K1). Programs stay meanwhile, and traffic goes
//! on. Unlike kube-proxy, it does not end for what it could not start with.

use std::{fs, path::PathBuf};

/// What has become of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// It says what it said, or cannot be read just now.
    None,
    /// It says something else.
    Good,
    /// It says what no agent could start with, for this reason.
    Bad(String),
}

/// Whether an agent could start with what the file says.
type Check = Box<dyn Fn() -> Result<(), String>>;

/// Looks at the file's text: however it is replaced, even through links as a mounted `ConfigMap` is,
/// that tells.
pub(super) struct ConfigFile {
    path: PathBuf,
    text: String,
    check: Check,
}

impl ConfigFile {
    /// The file, which said this.
    pub(super) fn new(path: PathBuf, text: String, check: Check) -> Self {
        Self { path, text, check }
    }

    /// Where it is.
    pub(super) fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// What has become of it.
    pub(super) fn look(&self) -> Change {
        // While it is being replaced there may be none, or half of it.
        let Ok(text) = fs::read_to_string(&self.path) else {
            return Change::None;
        };
        if text == self.text {
            return Change::None;
        }
        match (self.check)() {
            Ok(()) => Change::Good,
            Err(reason) => Change::Bad(reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn k01_only_a_change_that_can_be_started_with_counts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        let check = {
            let path = path.clone();
            move || match fs::read_to_string(&path).unwrap().as_str() {
                "bad" => Err("it is bad".to_owned()),
                _ => Ok(()),
            }
        };
        let file = ConfigFile::new(path.clone(), "one".into(), Box::new(check));
        assert_eq!(file.look(), Change::None);
        for (text, expected) in [
            ("one", Change::None),
            ("bad", Change::Bad("it is bad".into())),
            ("one", Change::None),
            ("two", Change::Good),
        ] {
            // As `ConfigMaps` are replaced: by another file under the same name.
            let fresh = dir.path().join("fresh");
            fs::write(&fresh, text).unwrap();
            fs::rename(&fresh, &path).unwrap();
            assert_eq!(file.look(), expected, "{text}");
        }
    }
}
