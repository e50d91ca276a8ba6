//! The agent's loop: what the source and the kernel say goes in, maps and programs follow.

use std::{
    io, mem,
    path::PathBuf,
    time::{Duration, Instant},
};

use thiserror::Error;
use tokio::{
    select,
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    task,
    time::sleep_until,
};
use tracing::info;

use super::{
    account::Account,
    bpffs::{self, BpffsError, Lock},
    config_file::{Change, ConfigFile},
    filters::FilterError,
    monitor::{Monitor, MonitorError},
    node::Node,
    options::Options,
    probe::Features,
    programs::{self, LoadError, Loaded, Opened, chain},
    serve::{ServeError, Servers},
    source::Source,
    table::{Effects, Event},
    tc_attach::{self, NoTcx},
};
use crate::{
    model::Batch,
    pins::Pins,
    source::{
        kubernetes::{self, Requests},
        manifests,
    },
};

/// How often what is not driven by events gets its turn.
const TICK: Duration = Duration::from_secs(1);

/// Why the agent cannot start.
#[derive(Debug, Error)]
pub(super) enum RunError {
    /// The pin directory cannot be used.
    #[error(transparent)]
    Bpffs(#[from] BpffsError),
    /// The programs cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The kernel has no tcx links, and nothing else is to be used.
    #[error(transparent)]
    NoTcx(#[from] NoTcx),
    /// The kernel cannot be asked for interfaces.
    #[error(transparent)]
    Monitor(#[from] MonitorError),
    /// Filters cannot be had.
    #[error(transparent)]
    Filters(#[from] FilterError),
    /// A map cannot be used.
    #[error("{}", chain(&**.0))]
    Maps(Box<dyn std::error::Error>),
    /// A server cannot be had.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// The task that follows the source died.
    #[error("the source of objects has failed; programs stay, and traffic goes on")]
    SourceEnded,
    /// There is another configuration.
    #[error(
        "--config {}: it has changed, so the agent ends to be started again with what it says; \
         programs stay, and traffic goes on",
        .0.display()
    )]
    Reconfigured(PathBuf),
    /// Threads, signals or timers cannot be had.
    #[error("cannot set up the event loop: {0}")]
    Runtime(#[from] io::Error),
}

/// Runs the agent until a signal ends it.
pub(super) fn run(
    options: Options,
    features: Features,
    file: Option<ConfigFile>,
) -> Result<(), RunError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let done = runtime.block_on(serve(options, features, file));
    // Programs that are still being loaded are nobody's: they need not be waited for.
    runtime.shutdown_background();
    done
}

async fn serve(
    options: Options,
    features: Features,
    file: Option<ConfigFile>,
) -> Result<(), RunError> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let way = tc_attach::choose(options.tc_attach, &features)?;
    let pins = Pins::new(&options.bpffs);
    info!(
        "lb-agent {} for node {}: {}, pins {}",
        env!("CARGO_PKG_VERSION"),
        options.node_name,
        options.source,
        pins.root().display()
    );
    bpffs::prepare(&options.bpffs, &pins)?;
    let _lock = Lock::take(&pins)?;
    let Opened {
        programs,
        config,
        links,
        status,
    } = programs::open(&pins, features.lacks())?;
    let account = Account::begun(status, &options);
    // The verifier takes longest of all: whatever else there is to do at the start is done meanwhile.
    let mut loading = task::spawn_blocking(|| programs.load());
    let mut kernel = Kernel::new()?;
    let table = kernel.monitor.read().await?;
    let requests = Requests::default();
    let recorder = recorder(&options, &requests);
    let teller = recorder.clone();
    let notify = Box::new(move |event| teller.publish(event));
    let (servers, mut failures) = Servers::start(options.servers(requests.clone()), &pins, notify)?;
    let mut batches = source(&options, &requests);
    recorder.publish(kubernetes::Event::starting(&options.node_name));
    let programs = select! {
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
        Some(failure) = failures.recv() => return Err(failure.into()),
        programs = &mut loading => programs.map_err(io::Error::from)??,
    };
    let loaded = Loaded {
        programs,
        config,
        links,
        account,
    };
    let mut node = Node::new(
        options,
        (features, way),
        &pins,
        loaded,
        table,
        servers,
        recorder,
    )?;
    node.publish();
    loop {
        let tick = node
            .due(Instant::now())
            .map_or(kernel.tick, |due| due.min(kernel.tick));
        select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            Some(failure) = failures.recv() => return Err(failure.into()),
            event = kernel.monitor.next(), if !kernel.stale => kernel.take_in(event, &mut node).await,
            batch = batches.recv() => {
                node.batch(batch.ok_or(RunError::SourceEnded)?, Instant::now());
            }
            () = sleep_until(tick.into()) => {
                if kernel.tick(&mut node).await {
                    look_at(file.as_ref(), &mut node)?;
                }
            }
        }
        node.publish();
    }
    info!("stopped; programs stay, and traffic goes on");
    Ok(())
}

/// Ends when the file of `--config` says something else.
fn look_at(file: Option<&ConfigFile>, node: &mut Node) -> Result<(), RunError> {
    let Some(file) = file else {
        return Ok(());
    };
    match file.look() {
        Change::Good => Err(RunError::Reconfigured(file.path().to_owned())),
        Change::None => {
            node.config_problem(None);
            Ok(())
        }
        Change::Bad(reason) => {
            let line = format!("{reason}; the options stay as they were");
            node.config_problem(Some(line));
            Ok(())
        }
    }
}

/// Where objects come from.
fn source(options: &Options, requests: &Requests) -> mpsc::Receiver<Batch> {
    let (sender, receiver) = mpsc::channel(16);
    match &options.source {
        Source::Manifests(dir) => {
            tokio::spawn(manifests::watch(options.manifests(dir.clone()), sender))
        }
        Source::Kubernetes(access) => tokio::spawn(kubernetes::watch(
            options.kubernetes(access.clone(), requests.clone()),
            sender,
        )),
    };
    receiver
}

/// Who hears of events.
fn recorder(options: &Options, requests: &Requests) -> kubernetes::Recorder {
    match &options.source {
        Source::Manifests(_) => kubernetes::Recorder::silent(),
        Source::Kubernetes(access) => {
            kubernetes::Recorder::new(access.clone(), &options.node_name, requests.clone())
        }
    }
}

/// The kernel's side of the loop.
struct Kernel {
    monitor: Monitor,
    tick: Instant,
    /// Whether the socket broke, or reading failed: the next tick starts over.
    stale: bool,
}

impl Kernel {
    fn new() -> Result<Self, MonitorError> {
        Ok(Self {
            monitor: Monitor::new()?,
            tick: Instant::now() + TICK,
            stale: false,
        })
    }

    /// Takes in an event and all that wait behind it; none means that the socket broke.
    async fn take_in(&mut self, event: Option<Event>, node: &mut Node) {
        let Some(event) = event else {
            self.stale = true;
            return;
        };
        let mut events = 1;
        let mut effects = node.table.apply(event);
        while let Some(event) = self.monitor.try_next() {
            events += 1;
            effects.merge(node.table.apply(event));
        }
        node.servers.kernel_events(events);
        for peer in mem::take(&mut effects.peers) {
            // A failure means that it is gone too, of which there is an event.
            if let Ok(Some(event)) = self.monitor.read_link(peer).await {
                effects.merge(node.table.apply(event));
            }
        }
        if mem::take(&mut effects.default_routes) {
            effects.merge(self.read_default_routes(node).await);
        }
        if effects.reread {
            effects.merge(self.read_again(node).await);
        }
        node.follow(&effects, Instant::now());
    }

    async fn read_default_routes(&mut self, node: &mut Node) -> Effects {
        match self.monitor.default_routes().await {
            Ok(interfaces) => node.table.set_default_routes(interfaces),
            Err(error) => {
                self.stale = true;
                node.kernel_problem(Some(error.to_string()));
                Effects::default()
            }
        }
    }

    async fn read_again(&mut self, node: &mut Node) -> Effects {
        match self.monitor.read().await {
            Ok(table) => {
                node.table = table;
                node.kernel_problem(None);
                Effects {
                    hops: true,
                    links: true,
                    addresses: true,
                    ..Effects::default()
                }
            }
            Err(error) => {
                self.stale = true;
                node.kernel_problem(Some(error.to_string()));
                Effects::default()
            }
        }
    }

    /// Does what is due; says whether a [`TICK`] has passed.
    async fn tick(&mut self, node: &mut Node) -> bool {
        let now = Instant::now();
        let passed = now >= self.tick;
        if self.stale {
            self.start_over(node).await;
        }
        if passed {
            self.tick = now + TICK;
            node.look_after(now);
        }
        node.poll(now);
        passed
    }

    async fn start_over(&mut self, node: &mut Node) {
        match Monitor::new() {
            Ok(monitor) => {
                self.monitor = monitor;
                self.stale = false;
                let effects = self.read_again(node).await;
                node.follow(&effects, Instant::now());
            }
            Err(error) => node.kernel_problem(Some(error.to_string())),
        }
    }
}
