//! The sockets that were led to backends, as the programs keep them.

use aya::{
    Pod,
    maps::{HashMap, IterableMap as _, Map, MapData},
};
use lb_common::socket::{SocketKey, SocketPeer};

use super::{Family, KernelError, batch, kernel::shape};
use crate::pins::Pins;

/// All rows of a family, in no order.
pub fn led_sockets<A: Family>(
    pins: &Pins,
) -> Result<Vec<(SocketKey<A>, SocketPeer<A>)>, KernelError>
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
