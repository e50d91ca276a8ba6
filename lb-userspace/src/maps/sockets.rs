//! The maps of sockets: those that were led to backends, and whose are to be.

use aya::{
    Pod,
    maps::{HashMap, IterableMap as _, Map, MapData},
};
use lb_common::{
    maps::NETNS,
    socket::{Cookie, PodAddresses, SocketKey, SocketPeer},
};

use super::{Family, KernelError, batch, kernel::shape};
use crate::pins::Pins;

/// The network namespaces of pods whose sockets are led.
pub fn netns_map(pins: &Pins) -> Result<HashMap<MapData, Cookie, PodAddresses>, KernelError> {
    let map = Map::HashMap(pins.open(NETNS)?);
    HashMap::try_from(map).map_err(|error| shape(NETNS, error))
}

/// A row of a led socket.
pub type LedSocket<A> = (SocketKey<A>, SocketPeer<A>);

/// All rows of a family's led sockets, in no order.
pub fn led_sockets<A: Family>(pins: &Pins) -> Result<Vec<LedSocket<A>>, KernelError>
where
    SocketKey<A>: Pod,
    SocketPeer<A>: Pod,
{
    let map = Map::LruHashMap(pins.open(A::SOCKETS)?);
    let map: HashMap<MapData, SocketKey<A>, SocketPeer<A>> =
        HashMap::try_from(map).map_err(|error| shape(A::SOCKETS, error))?;
    batch::entries(map.map()).map_err(|source| KernelError::Shape {
        map: A::SOCKETS,
        source,
    })
}
