//! The kernel's own account of links, addresses, neighbours and routes, as it changes.

use std::{
    collections::BTreeSet,
    io,
    net::{Ipv4Addr, Ipv6Addr},
};

use futures_channel::mpsc::UnboundedReceiver;
use futures_util::{Stream, TryStreamExt as _};
use rtnetlink::{
    Handle, MulticastGroup, RouteMessageBuilder, new_connection, new_multicast_connection,
    packet_core::{NetlinkMessage, NetlinkPayload},
    packet_route::RouteNetlinkMessage,
    sys::{AsyncSocket as _, SocketAddr},
};
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use thiserror::Error;
use tokio::task::JoinHandle;
use tracing::debug;

use super::{
    decode,
    table::{Event, Table},
};

/// What is listened to.
const GROUPS: [MulticastGroup; 8] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv6Rule,
];

/// Room for a burst of events (a node that starts hundreds of pods) before any is lost.
const RECEIVE_BUFFER: usize = 4 << 20;

/// The kernel cannot be asked.
#[derive(Debug, Error)]
pub(super) enum MonitorError {
    /// The socket could not be had.
    #[error("cannot open a netlink socket: {0}")]
    Socket(#[from] io::Error),
    /// A request failed.
    #[error("cannot list {0}: {1}")]
    List(&'static str, #[source] rtnetlink::Error),
}

/// Listens in the network namespace it was made in. Must be made inside a tokio runtime.
#[derive(Debug)]
pub(super) struct Monitor {
    events: UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>,
    handle: Handle,
    tasks: [JoinHandle<()>; 2],
}

impl Monitor {
    /// Begins to listen. Requests have a socket of their own, whose answers no burst of events
    /// can push out.
    pub(super) fn new() -> Result<Self, MonitorError> {
        let (mut listening, _, events) = new_multicast_connection(&GROUPS)?;
        let socket = listening.socket_mut().socket_ref();
        if let Err(error) = set_socket_recv_buffer_size_force(socket, RECEIVE_BUFFER) {
            debug!("netlink socket keeps its small receive buffer: {error}");
        }
        let (asking, handle, _) = new_connection()?;
        Ok(Self {
            events,
            handle,
            tasks: [tokio::spawn(listening), tokio::spawn(asking)],
        })
    }

    /// What further requests are made by.
    pub(super) const fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Everything as it is. What changes meanwhile comes as events.
    pub(super) async fn read(&self) -> Result<Table, MonitorError> {
        let mut table = Table::default();
        let links = self.handle.link().get().execute();
        fill(&mut table, "links", links, RouteNetlinkMessage::NewLink).await?;
        let addresses = self.handle.address().get().execute();
        fill(
            &mut table,
            "addresses",
            addresses,
            RouteNetlinkMessage::NewAddress,
        )
        .await?;
        let neighbours = self.handle.neighbours().get().execute();
        let new = RouteNetlinkMessage::NewNeighbour;
        fill(&mut table, "neighbours", neighbours, new).await?;
        table.set_default_routes(self.default_routes().await?);
        Ok(table)
    }

    /// Interfaces that default routes lead out of.
    pub(super) async fn default_routes(&self) -> Result<BTreeSet<u32>, MonitorError> {
        let requests = [
            RouteMessageBuilder::<Ipv4Addr>::new().build(),
            RouteMessageBuilder::<Ipv6Addr>::new().build(),
        ];
        let mut interfaces = BTreeSet::new();
        for request in requests {
            let routes = self.handle.route().get(request).execute();
            let mut routes = std::pin::pin!(routes);
            while let Some(route) = routes
                .try_next()
                .await
                .map_err(|error| MonitorError::List("routes", error))?
            {
                interfaces.extend(decode::default_route(&route));
            }
        }
        Ok(interfaces)
    }

    /// One interface as it is.
    pub(super) async fn read_link(&self, index: u32) -> Result<Option<Event>, MonitorError> {
        let request = self.handle.link().get().match_index(index).execute();
        let message = std::pin::pin!(request)
            .try_next()
            .await
            .map_err(|error| MonitorError::List("a link", error))?;
        Ok(message.and_then(|message| decode::event(&RouteNetlinkMessage::NewLink(message))))
    }

    /// The next event. Cancel safe. None when the socket broke: a new monitor is needed.
    pub(super) async fn next(&mut self) -> Option<Event> {
        loop {
            let (message, _) = self.events.recv().await.ok()?;
            if let Some(event) = event(&message) {
                return Some(event);
            }
        }
    }

    /// An event that is waiting already.
    pub(super) fn try_next(&mut self) -> Option<Event> {
        while let Ok((message, _)) = self.events.try_recv() {
            if let Some(event) = event(&message) {
                return Some(event);
            }
        }
        None
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

fn event(message: &NetlinkMessage<RouteNetlinkMessage>) -> Option<Event> {
    match &message.payload {
        NetlinkPayload::InnerMessage(message) => decode::event(message),
        NetlinkPayload::Overrun(_) => Some(Event::Lost),
        _ => None,
    }
}

async fn fill<M>(
    table: &mut Table,
    what: &'static str,
    messages: impl Stream<Item = Result<M, rtnetlink::Error>>,
    new: impl Fn(M) -> RouteNetlinkMessage,
) -> Result<(), MonitorError> {
    let mut messages = std::pin::pin!(messages);
    while let Some(message) = messages
        .try_next()
        .await
        .map_err(|error| MonitorError::List(what, error))?
    {
        if let Some(event) = decode::event(&new(message)) {
            table.apply(event);
        }
    }
    Ok(())
}
