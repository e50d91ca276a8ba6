//! The programs that answer `lbctl explain`, loaded beside those that see traffic.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread::{self, JoinHandle},
};

use aya::pin::PinError;
use lb_common::maps::programs;
use thiserror::Error;

use super::programs::{self as object, LoadError, chain};
use crate::pins::Pins;

/// The programs of dry runs cannot be had.
#[derive(Debug, Error)]
pub(super) enum DryRunError {
    /// They cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// One cannot be pinned.
    #[error("cannot pin program {0}: {cause}", cause = chain(.1))]
    Pin(&'static str, #[source] PinError),
    /// A pin cannot be put in its place.
    #[error("cannot put program {path} in place: {source}", path = .0.display(), source = .1)]
    Place(PathBuf, #[source] io::Error),
    /// There is no thread to load them in.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] io::Error),
    /// Loading panicked.
    #[error("loading them failed")]
    Panicked,
}

/// Loads the programs in a thread of its own: the verifier takes its time, and traffic must not wait
/// for what people may ask one day.
#[derive(Debug)]
pub(super) struct DryRuns {
    pins: Pins,
    lacks: u32,
    loading: Option<JoinHandle<Result<(), DryRunError>>>,
}

impl DryRuns {
    /// Nothing is loaded yet. The kernel lacks this ([`lb_common::kernel`]).
    pub(super) const fn new(pins: Pins, lacks: u32) -> Self {
        Self {
            pins,
            lacks,
            loading: None,
        }
    }

    /// Begins to load and pin the programs, in place of an earlier agent's. The maps have to be
    /// pinned.
    pub(super) fn begin(&mut self) -> Result<(), DryRunError> {
        let (pins, lacks) = (self.pins.clone(), self.lacks);
        let thread = thread::Builder::new().name("dry-runs".to_owned());
        self.loading = Some(thread.spawn(move || install(&pins, lacks))?);
        Ok(())
    }

    /// Whether programs are being loaded.
    pub(super) const fn is_loading(&self) -> bool {
        self.loading.is_some()
    }

    /// How loading went, told once when it has ended.
    pub(super) fn ended(&mut self) -> Option<Result<(), DryRunError>> {
        let loading = self.loading.take_if(|loading| loading.is_finished())?;
        Some(loading.join().unwrap_or(Err(DryRunError::Panicked)))
    }
}

fn install(pins: &Pins, lacks: u32) -> Result<(), DryRunError> {
    let mut loaded = object::load_dry(pins, lacks)?;
    for name in programs::DRY {
        let program = loaded.tc(name)?;
        // Under another name first: whoever asks meanwhile finds the earlier program.
        let fresh = pins.program(&format!("{name}@new"));
        remove(&fresh)?;
        program
            .pin(&fresh)
            .map_err(|error| DryRunError::Pin(name, error))?;
        let path = pins.program(name);
        fs::rename(&fresh, &path).map_err(|error| DryRunError::Place(path, error))?;
    }
    Ok(())
}

/// Removes what an agent left that was stopped in between.
fn remove(path: &Path) -> Result<(), DryRunError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(DryRunError::Place(path.to_owned(), error))
        }
        _ => Ok(()),
    }
}
