//! What the kernel of this network namespace knows: interfaces, and the way to an address.

use std::net::IpAddr;

use futures_util::TryStreamExt as _;
use rtnetlink::{
    new_connection,
    packet_route::{
        AddressFamily,
        route::{RouteAddress, RouteAttribute, RouteMessage, RouteType},
    },
};
use rustix::net::{AddressFamily as Family, SocketType, netdevice, socket};

use super::super::Error;

/// The way to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// It is one of the node's own.
    Local,
    /// By this interface.
    By(u32),
    /// There is none.
    None,
}

/// The index of an interface.
pub(super) fn index(name: &str) -> Option<u32> {
    let socket = socket(Family::INET, SocketType::DGRAM, None).ok()?;
    netdevice::name_to_index(socket, name).ok()
}

/// The way to an address, as the kernel would send.
pub(super) fn to(address: IpAddr) -> Result<Route, Error> {
    let failed = |error: std::io::Error| Error::Route(address, error.to_string());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .map_err(failed)?;
    runtime.block_on(async {
        let (connection, handle, _) = new_connection().map_err(failed)?;
        let connection = tokio::spawn(connection);
        let mut replies = std::pin::pin!(handle.route().get(question(address)).execute());
        let reply = replies.try_next().await;
        connection.abort();
        match reply {
            Ok(message) => Ok(message.map_or(Route::None, |message| read(&message))),
            // Unreachable, prohibited: an answer too.
            Err(rtnetlink::Error::NetlinkError(_)) => Ok(Route::None),
            Err(error) => Err(Error::Route(address, error.to_string())),
        }
    })
}

fn question(address: IpAddr) -> RouteMessage {
    let (family, length, address) = match address {
        IpAddr::V4(address) => (AddressFamily::Inet, 32, RouteAddress::Inet(address)),
        IpAddr::V6(address) => (AddressFamily::Inet6, 128, RouteAddress::Inet6(address)),
    };
    let mut message = RouteMessage::default();
    message.header.address_family = family;
    message.header.destination_prefix_length = length;
    message
        .attributes
        .push(RouteAttribute::Destination(address));
    message
}

fn read(message: &RouteMessage) -> Route {
    if message.header.kind == RouteType::Local {
        return Route::Local;
    }
    let by = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Oif(index) => Some(Route::By(*index)),
            _ => None,
        });
    by.unwrap_or(Route::None)
}
