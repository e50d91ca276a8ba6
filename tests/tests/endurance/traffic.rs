//! Clients at work, each on a thread of its own.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Result, anyhow};

use crate::{client::Client, shared::Shared};

/// Between two questions of a client.
const PACE: Duration = Duration::from_millis(2);
/// Most flows that a restless client keeps.
const MOST: usize = 80;

/// What clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// They keep a flow to every frontend from the first to the last, and open others beside.
    Steady,
    /// They open and close at random.
    Restless,
}

/// Running clients. Dropped, they end.
pub(crate) struct Traffic {
    shared: Arc<Shared>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<usize>>,
    /// How many flows each client has begun with.
    established: Vec<mpsc::Receiver<usize>>,
}

impl Traffic {
    /// Has clients begin.
    pub(crate) fn start(
        shared: &Arc<Shared>,
        clients: Vec<Client>,
        manner: Manner,
    ) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut traffic = Self {
            shared: shared.clone(),
            stop: stop.clone(),
            threads: Vec::new(),
            established: Vec::new(),
        };
        for mut client in clients {
            let (shared, stop) = (shared.clone(), stop.clone());
            let (established, flows) = mpsc::channel();
            traffic.established.push(flows);
            let work = move || {
                if manner == Manner::Steady {
                    open_all(&mut client, &shared);
                }
                // Not everybody wants to know.
                established.send(client.flows.len()).ok();
                work(client, &shared, &stop, manner)
            };
            let name = "client".to_owned();
            let thread = thread::Builder::new().name(name).spawn(work)?;
            traffic.threads.push(thread);
        }
        Ok(traffic)
    }

    /// Waits until each client has a flow to every frontend; how many that is.
    pub(crate) fn established(&self) -> Result<usize> {
        let flows = self.established.iter();
        let flows = flows.map(|flows| Ok(flows.recv()?));
        let flows: Result<usize> = flows.sum();
        self.shared.check()?;
        flows
    }

    /// Has each kept flow go on once more, and ends; how many did. Fails if anything was ever not as it
    /// has to be.
    pub(crate) fn finish(mut self) -> Result<usize> {
        self.stop.store(true, Ordering::Relaxed);
        let mut kept = 0;
        for thread in self.threads.drain(..) {
            kept += thread.join().map_err(|_| anyhow!("a client panicked"))?;
        }
        self.shared.check()?;
        Ok(kept)
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A panic there has been printed already.
            drop(thread.join());
        }
    }
}

fn open_all(client: &mut Client, shared: &Shared) {
    for key in shared.targets() {
        if !client.may_ask(shared, &key) {
            continue;
        }
        let opened = client.open(shared, key);
        let opened = opened.map(|flow| client.flows.extend(flow));
        client.tell(shared, opened);
    }
}

/// Works until told to stop; how many flows go on then.
fn work(mut client: Client, shared: &Shared, stop: &AtomicBool, manner: Manner) -> usize {
    let mut turn = 0;
    while !stop.load(Ordering::Relaxed) {
        let outcome = match manner {
            Manner::Steady => steady(&mut client, shared, &mut turn),
            Manner::Restless => restless(&mut client, shared),
        };
        client.tell(shared, outcome);
        thread::sleep(PACE);
    }
    let mut kept = 0;
    for index in 0..client.flows.len() {
        let outcome = client.go_on(shared, index);
        let outcome = outcome.map(|goes_on| kept += usize::from(goes_on));
        client.tell(shared, outcome);
    }
    kept
}

/// All flows in turn, and every fourth time a new one.
fn steady(client: &mut Client, shared: &Shared, turn: &mut usize) -> Result<(), String> {
    *turn += 1;
    if turn.is_multiple_of(4) || client.flows.is_empty() {
        return client.open_any(shared).map(drop);
    }
    // Turns of new flows are not counted: of a number of flows that is a multiple of four, as of those turns,
    // every fourth would never be asked, and what carries datagrams expires unasked.
    let index = (*turn - *turn / 4) % client.flows.len();
    if !client.go_on(shared, index)? {
        client.close(index);
    }
    Ok(())
}

fn restless(client: &mut Client, shared: &Shared) -> Result<(), String> {
    let kept = client.flows.len();
    if kept == 0 || client.random.one_in(3) {
        let flow = client.open_any(shared)?;
        if client.random.one_in(2) {
            client.flows.extend(flow);
        }
        if kept > MOST {
            let index = client.random.below(kept);
            client.close(index);
        }
        return Ok(());
    }
    let index = client.random.below(kept);
    if !client.go_on(shared, index)? || client.random.one_in(20) {
        client.close(index);
    }
    Ok(())
}
