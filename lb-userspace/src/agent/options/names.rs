//! What options are called in messages: as they were given.

use std::path::Path;

use super::{flags::ProxyFlags, own::Own};

/// The names in force.
pub(super) struct Names<'a> {
    pub(super) file: Option<&'a Path>,
    /// kube-proxy's flags, if they count.
    pub(super) flags: Option<&'a ProxyFlags>,
    pub(super) own: &'a Own,
}

impl Names<'_> {
    /// A field of kube-proxy's.
    pub(super) fn of(&self, field: &str) -> String {
        match (self.flags, self.file) {
            (Some(flags), _) => flags.name_of(field),
            (None, Some(file)) => format!("--config {}: {field}", file.display()),
            (None, None) => field.to_owned(),
        }
    }

    /// One of ours: its flag if that was given, else the field of the file.
    pub(super) fn own(&self, is_given: fn(&Own) -> bool, flag: &str, field: &str) -> String {
        match self.file {
            Some(file) if !is_given(self.own) => format!("--config {}: {field}", file.display()),
            Some(_) | None => flag.to_owned(),
        }
    }
}
