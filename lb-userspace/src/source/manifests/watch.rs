//! The shell around the core: waits for the directory to change, looks, saves, sends.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use notify::{
    EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode, ModifyKind},
};
use tokio::{
    sync::mpsc,
    task::{JoinError, spawn_blocking},
    time::{sleep, timeout},
};

use super::{
    Allocations, ControlPlane, FileChange, Memory, Options, scan::Scanner, state::StateDir,
};
use crate::model::Batch;

/// Changes this close together are taken as one.
const QUIET: Duration = Duration::from_millis(20);

/// A directory that never is quiet is looked at this often all the same.
const MAX_UNQUIET: Duration = Duration::from_millis(500);

/// How often to look without being told of a change: symbolic links lead out of the directory, it
/// may be replaced as a whole, and watches are limited in number.
const RESCAN: Duration = Duration::from_secs(2);

/// A file that was being written is read after this long even if it was never closed.
const MAX_WRITING: Duration = Duration::from_secs(5);

/// Sends what the directory holds, then what changes, until the receiver is dropped.
///
/// The first batch that is not [`Batch::unseen`] is complete, even if the directory is empty, or
/// missing but remembered. A batch is sent after what it needs to keep over a restart has been
/// saved.
pub async fn watch(options: Options, out: mpsc::Sender<Batch>) {
    let (touches, mut touch) = mpsc::unbounded_channel();
    let Ok(mut source) = spawn_blocking(|| Source::new(options, touches))
        .await
        .or_panic()
    else {
        return;
    };
    loop {
        let look = spawn_blocking(move || {
            let batch = source.look();
            (source, batch)
        });
        let Ok((next, batch)) = look.await.or_panic() else {
            return;
        };
        source = next;
        if let Some(batch) = batch
            && out.send(batch).await.is_err()
        {
            return;
        }
        tokio::select! {
            () = out.closed() => return,
            () = sleep(RESCAN) => {}
            Some(first) = touch.recv() => {
                source.touched(first);
                until_quiet(&mut source, &mut touch).await;
            }
        }
    }
}

/// Takes touches until there are none for a while.
async fn until_quiet(source: &mut Source, touched: &mut mpsc::UnboundedReceiver<Touch>) {
    let start = Instant::now();
    while start.elapsed() < MAX_UNQUIET {
        match timeout(QUIET, touched.recv()).await {
            Ok(Some(touch)) => source.touched(touch),
            Ok(None) | Err(_) => return,
        }
    }
}

/// A panic goes on here; what remains is that the runtime shuts down.
trait OrPanic<T> {
    fn or_panic(self) -> Result<T, JoinError>;
}

impl<T> OrPanic<T> for Result<T, JoinError> {
    fn or_panic(self) -> Self {
        self.map_err(|error| match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => error,
        })
    }
}

/// Something happened in the directory.
#[derive(Debug)]
enum Touch {
    /// This file is being written, and will be closed.
    Writing(String),
    /// This file changed.
    File(String),
    /// The directory itself did, or something we were not told.
    Directory,
}

impl Touch {
    /// What an event means; reading a file, as we do ourselves, means nothing.
    fn of(event: &notify::Event, dir: &Path) -> Option<Self> {
        let path = event.paths.last().filter(|path| *path != dir);
        let name = path.and_then(|path| path.file_name());
        let name = name.map(|name| name.to_string_lossy().into_owned());
        match (event.kind, name) {
            (EventKind::Access(AccessKind::Close(AccessMode::Write)), Some(name)) => {
                Some(Self::File(name))
            }
            (EventKind::Access(_), _) => None,
            (EventKind::Modify(ModifyKind::Data(_)), Some(name)) => Some(Self::Writing(name)),
            (_, Some(name)) => Some(Self::File(name)),
            (_, None) => Some(Self::Directory),
        }
    }
}

/// Everything there is between two looks.
struct Source {
    scanner: Scanner,
    control_plane: ControlPlane,
    state: StateDir,
    watch: DirWatch,
    /// Files being written, since when.
    writing: HashMap<String, Instant>,
    /// Why allocations were made anew; told as long as we run, as addresses may have changed.
    load_problem: Option<String>,
    unsaved: bool,
    /// Whether we know what the directory holds or held.
    seen: bool,
    sent: Option<BTreeSet<String>>,
}

impl Source {
    fn new(options: Options, touches: mpsc::UnboundedSender<Touch>) -> Self {
        let Options {
            dir,
            state_dir,
            cluster,
        } = options;
        let mut state = StateDir::new(state_dir);
        let (allocations, load_problem) = match state.load() {
            Ok(allocations) => (allocations, None),
            Err(error) => (Allocations::new(), Some(error.to_string())),
        };
        let memory = Memory {
            allocations,
            last_good: state.last_good(&dir),
        };
        Self {
            seen: !memory.last_good.is_empty(),
            scanner: Scanner::new(dir.clone(), &memory.last_good),
            control_plane: ControlPlane::new(cluster, memory),
            state,
            watch: DirWatch::new(dir, touches),
            writing: HashMap::new(),
            load_problem,
            unsaved: true,
            sent: None,
        }
    }

    fn touched(&mut self, touch: Touch) {
        match touch {
            Touch::Writing(name) => drop(self.writing.insert(name, Instant::now())),
            Touch::File(name) => drop(self.writing.remove(&name)),
            // The one of this name may be another; not even its inode need tell.
            Touch::Directory => self.watch.watching = None,
        }
    }

    /// What is new, if anything is.
    fn look(&mut self) -> Option<Batch> {
        // Watched first, so that no change falls between the look and the watch.
        let watch_problem = self.watch.renew().err();
        self.writing
            .retain(|_, since| since.elapsed() < MAX_WRITING);
        let update = self.scanner.look(|name| self.writing.contains_key(name));
        self.unsaved |= !update.files.is_empty();
        self.seen |= update.problems.is_empty();
        let files = update.files.clone();
        let mut batch = self.control_plane.apply(update);
        batch.unseen = !self.seen;
        batch.problems.extend(self.remember(&files));
        batch.problems.extend(watch_problem);
        batch.problems.extend(self.load_problem.clone());
        batch.problems.extend(self.save());
        let new = !batch.changes.is_empty() || self.sent.as_ref() != Some(&batch.problems);
        new.then(|| {
            self.sent = Some(batch.problems.clone());
            batch
        })
    }

    /// Keeps copies of files that are good.
    fn remember(&self, files: &BTreeMap<String, FileChange>) -> Option<String> {
        let result = files.iter().try_for_each(|(name, change)| match change {
            FileChange::Content(bytes) if self.control_plane.is_good(name) => {
                self.state.remember(name, Some(bytes))
            }
            FileChange::Content(_) | FileChange::Unreadable(_) => Ok(()),
            FileChange::Gone => self.state.remember(name, None),
        });
        result.err().map(|error| error.to_string())
    }

    fn save(&mut self) -> Option<String> {
        if !self.unsaved {
            return None;
        }
        let result = self.state.save(self.control_plane.allocations());
        self.unsaved = result.is_err();
        result.err().map(|error| error.to_string())
    }
}

/// The watch on the directory, as long as it is the same directory.
struct DirWatch {
    dir: PathBuf,
    touches: mpsc::UnboundedSender<Touch>,
    /// The watch and the directory's device and inode.
    watching: Option<(RecommendedWatcher, (u64, u64))>,
}

impl DirWatch {
    fn new(dir: PathBuf, touches: mpsc::UnboundedSender<Touch>) -> Self {
        Self {
            dir,
            touches,
            watching: None,
        }
    }

    /// Watches the directory that is there. That there is none is for the look to find.
    fn renew(&mut self) -> Result<(), String> {
        let Ok(identity) = identity(&self.dir) else {
            self.watching = None;
            return Ok(());
        };
        if self
            .watching
            .as_ref()
            .is_some_and(|(_, watched)| *watched == identity)
        {
            return Ok(());
        }
        self.watching = None;
        let watcher = self.start().map_err(|error| {
            let (dir, every) = (self.dir.display(), RESCAN.as_secs());
            format!("{dir}: cannot be watched, so it is looked at every {every} seconds: {error}")
        })?;
        self.watching = Some((watcher, identity));
        Ok(())
    }

    fn start(&self) -> notify::Result<RecommendedWatcher> {
        let (touches, dir) = (self.touches.clone(), self.dir.clone());
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<_>| {
            let touch = event.map_or(Some(Touch::Directory), |event| Touch::of(&event, &dir));
            if let Some(touch) = touch {
                // Nobody listens any more when the source has ended.
                let _ = touches.send(touch);
            }
        })?;
        watcher.watch(&self.dir, RecursiveMode::NonRecursive)?;
        Ok(watcher)
    }
}

fn identity(dir: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::metadata(dir)?;
    Ok((metadata.dev(), metadata.ino()))
}
