//! Destroys the sockets of processes that were led to a backend which is gone: nobody tells a UDP
//! client that there is nobody at the other end, and a TCP client hears of it only after minutes.
//!
//! Which sockets those are `SOCKETS` tells, by their cookies: so the sockets of processes that
//! connected to the pod themselves stay. The kernel is asked for them only if there are any, one
//! network namespace after the other, in a thread.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    io,
    net::SocketAddr,
    sync::mpsc::{Receiver, TryRecvError, channel},
    thread,
    time::{Duration, Instant},
};

use aya::Pod;
use lb_common::{
    flow::Half,
    socket::{Cookie, SocketKey, SocketPeer},
};
use thiserror::Error;
use tracing::{debug, info};

use super::diag::{self, Connected, Diag, Protocol};
use crate::{
    agent::{netns, programs::chain},
    control::{Departed, Departures},
    maps::{Family, KernelError, LedSocket, led_sockets},
    model,
    pins::Pins,
};

/// When to look a second time: a call that was under way when the backend went may have led
/// another socket there.
const AGAIN: Duration = Duration::from_secs(1);
/// Time between two looks at a thread that is running.
const POLL: Duration = Duration::from_millis(20);

/// What a look came to: how many sockets were destroyed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::agent) struct Report {
    /// Over TCP.
    pub(in crate::agent) tcp: usize,
    /// Over UDP.
    pub(in crate::agent) udp: usize,
}

/// Sockets could not be destroyed.
#[derive(Debug, Error)]
pub(in crate::agent) enum DestroyError {
    /// It is not known who was led where.
    #[error("{}", chain(.0))]
    Maps(#[from] KernelError),
    /// The kernel cannot be asked.
    #[error("cannot open a netlink socket: {0}")]
    Open(#[source] io::Error),
    /// The network namespaces of pods cannot be entered.
    #[error("cannot enter the network namespaces of pods: {0}")]
    Enter(#[source] io::Error),
    /// It does not tell.
    #[error("cannot list sockets of {0}: {1} (the kernel needs CONFIG_INET_DIAG and its modules)")]
    List(Protocol, #[source] io::Error),
    /// It refuses.
    #[error("cannot destroy a socket of {0}: {1} (the kernel needs CONFIG_INET_DIAG_DESTROY)")]
    Destroy(Protocol, #[source] io::Error),
    /// No thread could be started.
    #[error("cannot start a thread that looks for them")]
    NoThread,
}

/// Destroys sockets in the background.
#[derive(Debug)]
pub(super) struct Destroyer {
    pins: Pins,
    /// Whose sockets are to be looked for, and when.
    waiting: Vec<(Instant, Departures)>,
    running: Option<Receiver<Result<Report, DestroyError>>>,
}

impl Destroyer {
    /// One of nobody's sockets yet.
    pub(super) const fn new(pins: Pins) -> Self {
        Self {
            pins,
            waiting: Vec::new(),
            running: None,
        }
    }

    /// These backends are gone.
    pub(super) fn departed(&mut self, mut departures: Departures, now: Instant) {
        departures.v4.retain(concerns_sockets);
        departures.v6.retain(concerns_sockets);
        if !departures.is_empty() {
            self.waiting.push((now + AGAIN, departures.clone()));
            self.waiting.push((now, departures));
        }
    }

    /// When [`Self::poll`] has something to do.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        match self.running {
            Some(_) => Some(now + POLL),
            None => self.waiting.iter().map(|(due, _)| *due).min(),
        }
    }

    /// Looks for sockets if it is time to. Returns what the last look came to, once.
    /// Sockets are looked for in the node's network namespace, and in those of pods of these numbers.
    pub(super) fn poll(
        &mut self,
        pods: Option<&BTreeSet<i32>>,
        now: Instant,
    ) -> Option<Result<Report, DestroyError>> {
        let report = self.ended();
        if self.running.is_none() {
            let mut departures = Departures::default();
            for (_, due) in self.waiting.extract_if(.., |(due, _)| *due <= now) {
                departures.v4.extend(due.v4);
                departures.v6.extend(due.v6);
            }
            if !departures.is_empty() {
                self.start(departures, pods.cloned().unwrap_or_default());
            }
        }
        report
    }

    fn ended(&mut self) -> Option<Result<Report, DestroyError>> {
        let report = match self.running.as_ref()?.try_recv() {
            Ok(report) => report,
            Err(TryRecvError::Empty) => return None,
            Err(TryRecvError::Disconnected) => Err(DestroyError::NoThread),
        };
        self.running = None;
        Some(report)
    }

    fn start(&mut self, departures: Departures, netns: BTreeSet<i32>) {
        let (sender, receiver) = channel();
        let pins = self.pins.clone();
        let look = move || {
            // Nobody listens only if the agent is about to end.
            let _ = sender.send(look(&pins, &departures, &netns));
        };
        let name = "sockets".to_owned();
        // Without a thread nothing is ever sent, which `ended` takes for a failure.
        let _ = thread::Builder::new().name(name).spawn(look);
        self.running = Some(receiver);
    }
}

/// Over UDP what serves no longer is lost to its clients. TCP connections go on until the pod is
/// deleted. Sockets of other protocols are not led.
fn concerns_sockets<A>(departed: &Departed<A>) -> bool {
    match departed.protocol {
        model::Protocol::Udp => true,
        model::Protocol::Tcp => departed.pod_deleted,
        model::Protocol::Sctp => false,
    }
}

/// A socket that was led to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Led {
    socket: Cookie,
    protocol: Protocol,
    backend: SocketAddr,
}

/// Destroys the sockets that were led to departed backends.
fn look(
    pins: &Pins,
    departures: &Departures,
    netns: &BTreeSet<i32>,
) -> Result<Report, DestroyError> {
    let Departures { v4, v6 } = departures;
    let mut led = led_to(v4, &rows(pins, v4)?);
    led.extend(led_to(v6, &rows(pins, v6)?));
    let mut report = Report::default();
    if led.is_empty() {
        return Ok(report);
    }
    let pods = if netns.is_empty() {
        BTreeMap::new()
    } else {
        netns::find(netns).map_err(DestroyError::Enter)?
    };
    let mut result = destroy(&mut led, &mut report);
    for netns in pods.values() {
        if led.is_empty() {
            break;
        }
        // What fails in one is no reason to leave the others out.
        let entered = netns::enter(netns).map_err(DestroyError::Enter);
        let done = entered.and_then(|()| destroy(&mut led, &mut report));
        result = result.and(done);
    }
    let Report { tcp, udp } = report;
    if tcp + udp > 0 {
        info!("sockets: destroyed {tcp} of TCP and {udp} of UDP that were led to deleted backends");
    }
    result.map(|()| report)
}

/// The rows that tell which sockets were led to backends, if one of those has departed.
fn rows<A: Family>(pins: &Pins, departed: &[Departed<A>]) -> Result<Vec<LedSocket<A>>, KernelError>
where
    SocketKey<A>: Pod,
    SocketPeer<A>: Pod,
{
    if departed.is_empty() {
        return Ok(Vec::new());
    }
    led_sockets(pins)
}

/// The sockets that were led to departed backends.
fn led_to<A: Family>(departed: &[Departed<A>], rows: &[LedSocket<A>]) -> HashSet<Led> {
    let mut by_backend: HashMap<_, Vec<_>> = HashMap::new();
    for backend in departed {
        let at = (backend.protocol.number(), backend.addr, backend.port);
        by_backend.entry(at).or_default().push(backend);
    }
    let mut led = HashSet::new();
    for (key, service) in rows.iter().filter(|(key, _)| key.half() == Half::Reply) {
        let SocketKey {
            addr, port, proto, ..
        } = *key;
        let port = port.number();
        let departed = by_backend.get(&(proto, addr, port)).into_iter().flatten();
        let (id, generation) = (service.service, service.generation);
        let mut departed = departed.filter(|it| it.covers((addr, port), id, generation));
        if let Some(departed) = departed.next() {
            let protocol = match departed.protocol {
                model::Protocol::Tcp => Protocol::Tcp,
                model::Protocol::Udp => Protocol::Udp,
                model::Protocol::Sctp => continue,
            };
            led.insert(Led {
                socket: key.socket,
                protocol,
                backend: SocketAddr::new(addr.to_ip(), port),
            });
        }
    }
    led
}

/// Destroys those of the sockets that are in the network namespace of this thread, and are
/// connected to where they were led.
fn destroy(led: &mut HashSet<Led>, report: &mut Report) -> Result<(), DestroyError> {
    let mut diag = Diag::open().map_err(DestroyError::Open)?;
    for (protocol, destroyed) in [
        (Protocol::Udp, &mut report.udp),
        (Protocol::Tcp, &mut report.tcp),
    ] {
        if !led.iter().any(|led| led.protocol == protocol) {
            continue;
        }
        for family in diag::Family::BOTH {
            let mut found = Vec::new();
            let listed = diag.each(protocol, family, |socket| {
                if led.remove(&of(&socket, protocol)) {
                    found.push(socket);
                }
            });
            listed.map_err(|error| DestroyError::List(protocol, error))?;
            for socket in found {
                let backend = socket.peer();
                let gone = diag.destroy(socket);
                if gone.map_err(|error| DestroyError::Destroy(protocol, error))? {
                    *destroyed += 1;
                    debug!("sockets: destroyed one that was led to {backend}");
                }
            }
        }
    }
    Ok(())
}

fn of(socket: &Connected, protocol: Protocol) -> Led {
    Led {
        socket: socket.cookie(),
        protocol,
        backend: socket.peer(),
    }
}

#[cfg(test)]
mod tests {
    use lb_common::{Addr as _, Port, V4};

    use super::*;

    const AT: u8 = 1;
    const PORT: u16 = 5353;

    fn addr(host: u8) -> V4 {
        V4::from_ip([10, 0, 0, host].into()).unwrap()
    }

    fn departed(protocol: model::Protocol, generation: u32, pod_deleted: bool) -> Departed<V4> {
        Departed {
            protocol,
            addr: addr(AT),
            port: PORT,
            service: 7,
            backend: 3,
            generation,
            pod_deleted,
        }
    }

    /// A row of a socket that service 7 led to a backend of this generation.
    fn row(half: Half, socket: u64, proto: u8, host: u8, generation: u32) -> LedSocket<V4> {
        let backend = (addr(host), Port::new(PORT));
        let peer = SocketPeer {
            service: 7,
            generation,
            ..SocketPeer::default()
        };
        let key = SocketKey::new(half, Cookie::new(socket), proto, backend);
        (key, peer)
    }

    #[test]
    fn udp_goes_with_the_backend_and_tcp_with_the_pod() {
        use model::Protocol::{Sctp, Tcp, Udp};
        let cases = [Tcp, Udp, Sctp].map(|protocol| {
            [false, true].map(|deleted| concerns_sockets(&departed(protocol, 1, deleted)))
        });
        assert_eq!(cases, [[false, true], [true, true], [false, false]]);
    }

    #[test]
    fn only_sockets_that_were_led_to_a_departed_backend_are_destroyed() {
        let udp = Protocol::Udp.number();
        let rows = [
            row(Half::Reply, 1, udp, AT, 4),
            row(Half::Reply, 2, udp, AT, 5),
            row(Half::Reply, 3, udp, AT + 1, 4),
            row(Half::Reply, 4, Protocol::Tcp.number(), AT, 4),
            row(Half::Request, 5, udp, AT, 4),
        ];
        let departed = [departed(model::Protocol::Udp, 4, false)];
        let led = Led {
            socket: Cookie::new(1),
            protocol: Protocol::Udp,
            backend: SocketAddr::new([10, 0, 0, AT].into(), PORT),
        };
        assert_eq!(led_to(&departed, &rows), HashSet::from([led]));
    }

    #[test]
    fn a_departed_backend_is_looked_for_twice() {
        let now = Instant::now();
        let mut destroyer = Destroyer::new(Pins::new("/nowhere".as_ref()));
        let departures = Departures {
            v4: vec![departed(model::Protocol::Udp, 4, false)],
            v6: Vec::new(),
        };
        destroyer.departed(departures, now);
        assert_eq!(destroyer.due(now), Some(now), "at once");
        assert!(destroyer.poll(None, now).is_none());
        assert_eq!(destroyer.due(now), Some(now + POLL), "it is running");
        let report = loop {
            if let Some(report) = destroyer.poll(None, now) {
                break report;
            }
        };
        report.expect_err("there are no maps");
        assert_eq!(destroyer.due(now), Some(now + AGAIN), "once more");
    }
}
