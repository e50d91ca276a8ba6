//! Clients that open connections, keep them, and judge every answer.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use tests::{
    echo::Protocol,
    frontends::Key,
    netns::Netns,
    random::Random,
    talk::{Conversation, unspecified},
    topology::{Addresses, Family},
};

use crate::{
    history::History,
    judge::{Asked, PortId, Prospect, Way},
    shared::Shared,
};

/// How long a server may take to answer, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a client waits for nobody.
const VAIN: Duration = Duration::from_millis(150);

/// Who a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Outside the cluster.
    Outside,
    /// A pod on the node of this number.
    Pod(usize),
    /// A process of that node.
    Process(usize),
}

/// A client.
pub(crate) struct Client {
    /// Its name.
    pub(crate) name: String,
    place: Place,
    netns: Netns,
    addresses: Addresses,
    /// Its own chances.
    pub(crate) random: Random,
    /// What it keeps open.
    pub(crate) flows: Vec<Flow>,
    /// Where its datagrams went, and from which ports.
    used: BTreeSet<(Key, u16)>,
    /// The latest of those whose flows are closed.
    closed: VecDeque<(Key, u16)>,
    /// Whom a node led it to for a Service port, and when it asked.
    servers: BTreeMap<(usize, PortId, IpAddr), (SocketAddr, Instant)>,
}

/// A connection, or a flow of datagrams.
pub(crate) struct Flow {
    conversation: Conversation,
    key: Key,
    way: Way,
    /// Who answered last, and when that was asked.
    last: Option<(SocketAddr, Instant)>,
}

impl Client {
    /// One without flows.
    pub(crate) fn new(
        name: &str,
        place: Place,
        netns: Netns,
        addresses: Addresses,
        random: Random,
    ) -> Self {
        Self {
            name: name.to_owned(),
            place,
            netns,
            addresses,
            random,
            flows: Vec::new(),
            used: BTreeSet::new(),
            closed: VecDeque::new(),
            servers: BTreeMap::new(),
        }
    }

    /// Opens a flow to one of the frontends that there are or were.
    pub(crate) fn open_any(&mut self, shared: &Shared) -> Result<Option<Flow>, String> {
        let key = shared.target(&mut self.random);
        match key.filter(|key| self.may_ask(shared, key)) {
            Some(key) => self.open(shared, key),
            None => Ok(None),
        }
    }

    /// Whether the client asks at a frontend. Those inside the cluster ask at their own node: another
    /// one keeps their address and port, so that a backend there cannot tell a connection that comes
    /// by it from one that comes straight.
    pub(crate) fn may_ask(&self, shared: &Shared, key: &Key) -> bool {
        let node = self.way(key, &shared.nodes).node;
        match self.place {
            Place::Outside => true,
            Place::Pod(own) | Place::Process(own) => node == own,
        }
    }

    /// Opens a flow; none if nobody answers, and that is as it should be.
    pub(crate) fn open(&mut self, shared: &Shared, key: Key) -> Result<Option<Flow>, String> {
        let way = self.way(&key, &shared.nodes);
        let patience = patience(shared, &key, &way);
        let (port, again) = self.source_port(shared, &key);
        let from = Instant::now();
        let to = SocketAddr::new(key.0, key.1);
        let own = SocketAddr::new(unspecified(key.0), port);
        let opened = Conversation::open_within(&self.netns, protocol(&key), to, own, patience);
        let (conversation, answered) = match opened {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Ok(None),
            Err(error) => (None, Err(error)),
            Ok(mut conversation) => {
                let answered = conversation.ask();
                (Some(conversation), answered)
            }
        };
        let asked = shared.asked(key, way, from, answered)?;
        let history = shared.history();
        if again {
            history.judge_datagrams(&asked, None)?;
        } else {
            history.judge_new(&asked)?;
        }
        let Some(server) = asked.outcome.server() else {
            return Ok(None);
        };
        let last = Some((server, from));
        if again {
            self.doubt(&history, &asked, server);
        } else {
            self.remember(&history, &asked, server)?;
        }
        // A connected socket of a process stays with the backend it was led to.
        let goes_on = !way.socket || protocol(&key) == Protocol::Tcp;
        Ok(conversation.filter(|_| goes_on).map(|conversation| Flow {
            conversation,
            key,
            way,
            last,
        }))
    }

    /// Asks again on a flow; whether it goes on.
    pub(crate) fn go_on(&mut self, shared: &Shared, index: usize) -> Result<bool, String> {
        let Flow {
            conversation,
            key,
            way,
            last,
        } = &mut self.flows[index];
        // A connection is answered whatever has become of its Service.
        let connected = protocol(key) == Protocol::Tcp;
        let patience = if connected {
            PATIENCE
        } else {
            patience(shared, key, way)
        };
        let patient = conversation.set_patience(patience);
        let from = Instant::now();
        let asked = shared.asked(*key, *way, from, patient.and_then(|()| conversation.ask()))?;
        let server = asked.outcome.server();
        if !connected {
            shared.history().judge_datagrams(&asked, *last)?;
        } else if shared.history().is_cut_off(&asked, *last) {
            // Its pod is deleted: the next one begins anew.
        } else if server.is_none() || server != last.map(|(server, _)| server) {
            return Err(format!("a connection to {last:?} met {asked:?}"));
        }
        let before = last.map(|(server, _)| server);
        *last = server.map(|server| (server, from));
        if let Some(server) = server.filter(|_| server != before) {
            self.doubt(&shared.history(), &asked, server);
        }
        Ok(server.is_some())
    }

    /// Has affinity lead where it led before, and remembers where it does. What is asked while a
    /// frontend passes from one Service to another may be led by either, and says nothing of the
    /// Service's other frontends.
    fn remember(
        &mut self,
        history: &History,
        asked: &Asked,
        server: SocketAddr,
    ) -> Result<(), String> {
        let Some(port) = history.affine(asked) else {
            return Ok(());
        };
        let who = (asked.way.node, port.clone(), asked.way.client);
        if !history.is_certain(asked) {
            self.servers.remove(&who);
            return Ok(());
        }
        let before = self.servers.insert(who, (server, asked.from));
        if let Some((before, since)) = before
            && before != server
            && history.is_bound(asked, &before, since)
        {
            return Err(format!(
                "{before} is the client's by affinity, but {asked:?}"
            ));
        }
        Ok(())
    }

    /// Forgets whom a node led the client to, if it may by now remember this server instead, for datagrams of a
    /// flow that it may have opened anew: affinity passes over a server that a frontend's policy leaves out, and
    /// the one that is chosen instead is remembered, for the port's other frontends too.
    fn doubt(&mut self, history: &History, asked: &Asked, server: SocketAddr) {
        let Some(port) = history.affine(asked) else {
            return;
        };
        let who = (asked.way.node, port.clone(), asked.way.client);
        let may_have_changed = |(known, since): &(SocketAddr, Instant)| {
            *known != server && !history.is_bound(asked, known, *since)
        };
        if self.servers.get(&who).is_some_and(may_have_changed) {
            self.servers.remove(&who);
        }
    }

    fn way(&self, key: &Key, nodes: &[Addresses; 2]) -> Way {
        let family = if key.0.is_ipv4() {
            Family::V4
        } else {
            Family::V6
        };
        let of_node = nodes.iter().position(|node| node.of(family) == key.0);
        let node = match self.place {
            // The way to all others is by the first node.
            Place::Outside => of_node.unwrap_or(0),
            Place::Pod(node) | Place::Process(node) => of_node.unwrap_or(node),
        };
        Way {
            node,
            inside: self.place != Place::Outside,
            client: self.addresses.of(family),
            socket: matches!(self.place, Place::Process(_)),
        }
    }

    /// Where datagrams come from, and whether others to the frontend came from there before: those may
    /// have left a row, which leads where they were led. Connections come from anywhere.
    fn source_port(&mut self, shared: &Shared, key: &Key) -> (u16, bool) {
        if protocol(key) == Protocol::Tcp || matches!(self.place, Place::Process(_)) {
            return (0, false);
        }
        let closed = self.closed.iter().position(|(closed, _)| closed == key);
        let closed = closed.filter(|_| self.random.one_in(3));
        let port = match closed.and_then(|closed| self.closed.remove(closed)) {
            Some((_, port)) => port,
            None => shared.port(),
        };
        (port, !self.used.insert((*key, port)))
    }

    /// Takes down what must not be.
    pub(crate) fn tell(&self, shared: &Shared, outcome: Result<(), String>) {
        if let Err(fault) = outcome {
            shared.fault(format!("{} at {}", self.name, fault));
        }
    }

    /// Closes a flow.
    pub(crate) fn close(&mut self, index: usize) {
        const MOST: usize = 500;
        let Flow {
            conversation, key, ..
        } = self.flows.swap_remove(index);
        if protocol(&key) == Protocol::Udp
            && let Ok(local) = conversation.local()
        {
            self.closed.push_back((key, local.port()));
            if self.closed.len() > MOST {
                self.closed.pop_front();
            }
        }
    }
}

fn protocol(key: &Key) -> Protocol {
    if key.2 == lb_common::proto::TCP {
        Protocol::Tcp
    } else {
        Protocol::Udp
    }
}

fn patience(shared: &Shared, key: &Key, way: &Way) -> Duration {
    match shared.history().prospect(key, way) {
        Prospect::Word => PATIENCE,
        Prospect::None => VAIN,
    }
}
