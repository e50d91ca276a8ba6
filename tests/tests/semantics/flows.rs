//! UDP flows that rows watch.

use std::{collections::BTreeMap, io, net::SocketAddr};

use anyhow::{Context, Result, bail, ensure};
use tests::{
    cluster::eventually,
    echo::{Answer, Protocol},
    netns::Netns,
    talk::{Conversation, Loose},
};

use crate::world::{SOON, World, address};

/// So many flows have one to each of a few endpoints, but for once in a million times.
const FLOWS: usize = 64;

/// A flow from one source port, and who has it.
pub(crate) struct Flow {
    /// Its client's namespace, and where that sends to.
    from: String,
    to: SocketAddr,
    socket: Socket,
    /// Who answered last.
    pub(crate) server: String,
}

/// What a node's own process has is not connected: what is connected stays with its backend.
enum Socket {
    Connected(Conversation),
    Loose(Loose),
}

impl Flow {
    /// Opens one: who has it answers.
    pub(crate) fn open(world: &World, from: &str, to: &str) -> Result<Self> {
        let (netns, to) = (world.cluster.netns(from)?, address(to)?);
        let mut flow = Self {
            from: from.to_owned(),
            to,
            socket: Socket::open(netns, from, to)?,
            server: String::new(),
        };
        flow.server = flow.ask().with_context(|| flow.name())?.server;
        Ok(flow)
    }

    fn name(&self) -> String {
        let Self {
            from, to, server, ..
        } = self;
        format!("the flow from {from} to {to} that {server} had")
    }

    /// Its client's end; the address is known of a connected one only.
    pub(crate) fn client(&self) -> Result<SocketAddr> {
        match &self.socket {
            Socket::Connected(socket) => Ok(socket.local()?),
            Socket::Loose(_) => bail!("{} has no address of its own", self.name()),
        }
    }

    /// Where its client sends to.
    pub(crate) const fn to(&self) -> SocketAddr {
        self.to
    }

    fn ask(&mut self) -> io::Result<Answer> {
        match &mut self.socket {
            Socket::Connected(socket) => socket.ask(),
            Socket::Loose(socket) => socket.ask(self.to).map(|(answer, _)| answer),
        }
    }

    /// It is where it was.
    pub(crate) fn stays(&mut self) -> Result<()> {
        let server = self.ask().with_context(|| self.name())?.server;
        ensure!(server == self.server, "{} has {server}", self.name());
        Ok(())
    }

    /// Soon one of these has it, and goes on having it.
    pub(crate) fn moves(&mut self, to: &[&str]) -> Result<()> {
        let server = eventually(SOON, || {
            let server = self.ask().with_context(|| self.name())?.server;
            ensure!(to.contains(&&*server), "{} has {server}", self.name());
            Ok(server)
        })?;
        self.server = server;
        self.stays()
    }

    /// Soon nobody has it.
    pub(crate) fn ends(&mut self) -> Result<()> {
        eventually(SOON, || match self.ask() {
            Ok(answer) => bail!("{} has {}", self.name(), answer.server),
            Err(_) => Ok(()),
        })
    }
}

impl Socket {
    fn open(netns: &Netns, from: &str, to: SocketAddr) -> Result<Self> {
        Ok(if from.starts_with("node") {
            Self::Loose(Loose::open(netns, to)?)
        } else {
            Self::Connected(Conversation::open(netns, Protocol::Udp, to, 0)?)
        })
    }
}

impl World {
    /// A flow of each of these clients to each of these endpoints, once all of them answer.
    pub(crate) fn flows(&self, clients: &[(&str, &str)], servers: &[&str]) -> Result<Vec<Flow>> {
        let mut flows = Vec::new();
        for (from, to) in clients {
            self.served(from, Protocol::Udp, to, servers)?;
            let mut found = BTreeMap::new();
            for _ in 0..FLOWS {
                let flow = Flow::open(self, from, to)?;
                found.entry(flow.server.clone()).or_insert(flow);
            }
            ensure!(
                servers.iter().all(|server| found.contains_key(*server)),
                "of {FLOWS} flows from {from} to {to} none went to one of {servers:?}"
            );
            flows.extend(found.into_values());
        }
        Ok(flows)
    }
}
