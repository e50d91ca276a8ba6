//! Frontends that pass from one port to another, and the flows that came by them.

use lb_common::service::{FrontendKey, backend};

use super::{
    Writer,
    build::{Won, put_backend},
};
use crate::{
    control::{
        family::Desired,
        realised::{Known, Port, Realised},
    },
    maps::{Family, LbMaps, WriteError},
};

/// Before a frontend becomes the heir's, or nobody's: has the flows of those it may lead to look
/// whose it is. No flow comes by the row of a whole address; the flows of a port that has nothing
/// left are about to end, unless it has something again before.
pub(super) fn announce_loss<A: Family, M: LbMaps>(
    desired: &Desired<A>,
    realised: &mut Realised<A>,
    key: &FrontendKey<A>,
    heir: Option<u32>,
    writer: &mut Writer<'_, M>,
) -> Result<(), WriteError> {
    let Realised {
        ports,
        by_id,
        frontends,
        ..
    } = realised;
    if *key == FrontendKey::whole_address(key.addr) {
        return Ok(());
    }
    let values = frontends.get(key).into_iter().flat_map(Known::values);
    let services = values.map(|value| value.service);
    let losers = services.filter(|service| heir != Some(*service));
    for id in losers.filter_map(|service| by_id.get(&service)) {
        let won = desired.plan(id).map(|plan| Won::of(desired, plan));
        if let Some(port) = ports.get_mut(id) {
            port.untold_loss = true;
            if won.is_some_and(|won| won.is_reached()) {
                tell_of_loss(port, writer)?;
            }
        }
    }
    Ok(())
}

/// Has the flows of a port that has lost a frontend look whose it is, unless they do.
pub(super) fn tell_of_loss<A: Family, M: LbMaps>(
    port: &mut Port<A>,
    writer: &mut Writer<'_, M>,
) -> Result<(), WriteError> {
    if port.untold_loss {
        for (endpoint, entry) in &mut port.backends {
            let flags = entry.flags | backend::LOST_FRONTEND;
            put_backend(port.id, endpoint, entry, flags, writer)?;
        }
        port.untold_loss = false;
    }
    Ok(())
}
