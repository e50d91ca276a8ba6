//! Slots, and the backends they lead to.

use std::collections::{BTreeMap, BTreeSet};

use aya::Pod;
use lb_common::{
    V4, V6,
    service::{self, FrontendKey},
};

use super::{
    super::{
        Error,
        convert::backend_ref,
        endpoints::{Endpoints, Purpose, Reference, TableUse},
        pinned::{MapFamily, Use},
        snapshot::{Backend, Family, Slot},
    },
    Collector, both,
};

impl Collector<'_> {
    pub(in crate::cli) fn slots(&self, family: Option<Family>) -> Result<Vec<Slot>, Error> {
        both(
            family,
            || self.family_slots::<V4>(),
            || self.family_slots::<V6>(),
        )
    }

    fn family_slots<A: MapFamily>(&self) -> Result<Vec<Slot>, Error>
    where
        FrontendKey<A>: Pod,
        service::Backend<A>: Pod,
    {
        let endpoints = Endpoints::<A>::open(self.maps)?;
        let mut slots = Vec::new();
        for (index, purpose) in self.purposes(&endpoints)? {
            slots.extend(endpoints.held(index, purpose)?.map(|holds| Slot {
                family: A::FAMILY,
                index,
                holds,
            }));
        }
        Ok(slots)
    }

    /// How many slots frontends refer to, and what of that are Maglev tables.
    pub(in crate::cli) fn slot_use<A: MapFamily>(&self) -> Result<(Use, TableUse), Error>
    where
        FrontendKey<A>: Pod,
        service::Backend<A>: Pod,
    {
        let endpoints = Endpoints::<A>::open(self.maps)?;
        let purposes = self.purposes(&endpoints)?;
        let slots = Use {
            used: purposes.len() as u32,
            capacity: endpoints.slots.capacity(),
        };
        Ok((slots, endpoints.table_use(&purposes)?))
    }

    /// The slots that frontends refer to.
    fn purposes<A: MapFamily>(
        &self,
        endpoints: &Endpoints<A>,
    ) -> Result<BTreeMap<u32, Purpose>, Error>
    where
        FrontendKey<A>: Pod,
        service::Backend<A>: Pod,
    {
        let rows = self.frontend_rows::<A>()?;
        endpoints.purposes(rows.values().flat_map(Reference::of))
    }

    pub(in crate::cli) fn backends(&self, family: Option<Family>) -> Result<Vec<Backend>, Error> {
        both(
            family,
            || self.family_backends::<V4>(),
            || self.family_backends::<V6>(),
        )
    }

    /// The backends frontends lead to.
    fn family_backends<A: MapFamily>(&self) -> Result<Vec<Backend>, Error>
    where
        FrontendKey<A>: Pod,
        service::Backend<A>: Pod,
    {
        let endpoints = Endpoints::<A>::open(self.maps)?;
        let mut referenced = BTreeSet::new();
        let purposes = self.purposes(&endpoints)?.into_iter();
        for (slot, _) in purposes.filter(|(_, purpose)| *purpose == Purpose::Backend) {
            referenced.extend(endpoints.slots.get(slot)?);
        }
        let mut backends = Vec::new();
        for index in referenced {
            if let Some(entry) = endpoints.backends.get(index)? {
                backends.push(Backend {
                    family: A::FAMILY,
                    entry: backend_ref(index, Some(entry)),
                    generation: entry.generation,
                });
            }
        }
        Ok(backends)
    }

    /// How many backends frontends lead to.
    pub(in crate::cli) fn backend_use<A: MapFamily>(&self) -> Result<Use, Error>
    where
        FrontendKey<A>: Pod,
        service::Backend<A>: Pod,
    {
        let capacity = self
            .maps
            .array::<service::Backend<A>>(A::BACKENDS)?
            .capacity();
        Ok(Use {
            used: self.family_backends::<A>()?.len() as u32,
            capacity,
        })
    }
}
