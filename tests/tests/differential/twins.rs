//! The programs in the kernel and the pipeline on the host, side by side.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    net::{IpAddr, SocketAddr},
};

use anyhow::{Context, Result, ensure};
use lb_common::{
    Addr, Port, Tick, V4, V6,
    config::{Config, link},
    counters::{Allowance, Reason, ServiceCounters},
    flow::{Direction, Flow, FlowKey, Hop},
    service::{ClientKey, Frontend, Remembered},
};
use lb_ebpf::{Hook, Verdict};
use lb_model::{
    flows::{HasTable, HostFlows},
    node::Node,
    packet::HostPacket,
    tables::HasServices,
    wire,
};
use rustix::time::{ClockId, clock_gettime};
use tests::{
    fixture,
    kernel::{Endpoint, Input, Kernel, Output, Typed},
    topology::Family,
};

use crate::{
    place::{Place, Way, expected_action},
    tuple::{Shown, Tuple},
    world::World,
};

/// A row, as far as packets for it can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) proto: u8,
    pub(crate) direction: Direction,
    pub(crate) src: SocketAddr,
    pub(crate) dst: SocketAddr,
    /// The ends as they are rewritten.
    pub(crate) onward: (SocketAddr, SocketAddr),
}

impl Known {
    /// Whether all its addresses are of these: toward others the model does not know the way.
    fn is_among(&self, routed: &HashSet<IpAddr>) -> bool {
        let ends = [self.src, self.dst, self.onward.0, self.onward.1];
        ends.iter().all(|end| routed.contains(&end.ip()))
    }
}

/// Both sides.
pub(crate) struct Twins<'k> {
    pub(crate) kernel: &'k mut Kernel,
    pub(crate) model: Node,
    interfaces: &'k BTreeMap<&'static str, u32>,
    pub(crate) world: World,
    /// Frontends that are not as they were, with what they were.
    pub(crate) changed: Vec<(Family, Endpoint, u8, Frontend)>,
    known: Vec<Known>,
    /// How often rows had been written when they were listed.
    listed: u32,
    config: Config,
}

impl<'k> Twins<'k> {
    /// Programs the world on both sides.
    pub(crate) fn new(
        kernel: &'k mut Kernel,
        interfaces: &'k BTreeMap<&'static str, u32>,
    ) -> Result<Self> {
        let mut model = Node::new();
        let world = World::program(kernel, &mut model, interfaces)?;
        let config = kernel.config()?;
        Ok(Self {
            kernel,
            model,
            interfaces,
            world,
            changed: Vec::new(),
            known: Vec::new(),
            listed: 0,
            config,
        })
    }

    /// What the kernel was configured with at first.
    pub(crate) const fn config(&self) -> Config {
        self.config
    }

    /// Begins anew, with nothing but the world: no flow, no client, all backends alive.
    pub(crate) fn begin(&mut self, config: &Config) -> Result<()> {
        self.kernel.forget()?;
        self.kernel.configure(*config)?;
        let Node { flows, tables, .. } = &mut self.model;
        *flows = HostFlows::new();
        tables.config = Some(*config);
        tables.v4.affinity.borrow_mut().clear();
        tables.v6.affinity.borrow_mut().clear();
        tables.v4.fragments.borrow_mut().clear();
        tables.v6.fragments.borrow_mut().clear();
        tables.reasons.borrow_mut().clear();
        tables.services.borrow_mut().clear();
        tables.allowance.set(Allowance::default());
        self.known.clear();
        self.listed = 0;
        self.restore_frontends()?;
        for family in Family::BOTH {
            for index in 0..self.world.backends.len() {
                self.set_backend(family, index, true)?;
            }
        }
        Ok(())
    }

    /// All rows, in an order that does not depend on chance.
    pub(crate) fn known(&self) -> &[Known] {
        &self.known
    }

    /// Has both sides see a packet. What they both did with it, or in what they differ.
    pub(crate) fn see(&mut self, place: Place, way: Way, frame: &[u8]) -> Result<Option<Output>> {
        let (hook, program, interface) = place.at(way);
        let shortest = if hook.xdp {
            14
        } else {
            fixture::shortest_at_tc(frame)
        };
        if frame.len() < shortest {
            // The kernel runs no program on this.
            return Ok(None);
        }
        let ifindex = self.interfaces[interface];
        self.model.tables.clock.set(nanos());
        let input = Input {
            ifindex,
            frame,
            segment: 0,
        };
        let output = self.kernel.run(program, input)?;
        let drawn = self.drawn(hook, frame)?;
        *self.model.tables.dice.borrow_mut() = VecDeque::from([drawn; 16]);
        self.model.tables.ifindex = ifindex;
        // To a test run all packets are of a socket.
        let mut packet = HostPacket::new(frame.to_vec()).of_this_node();
        let mut verdict = self.model.process(hook, &mut packet);
        if let Verdict::Reject(notice) = verdict {
            verdict = self.model.reject(notice, &mut packet);
        }
        let expected = expected_action(verdict, hook, ifindex);
        ensure!(
            output.action == expected,
            "the kernel answers {}, the model {expected} ({verdict:?})",
            output.action
        );
        // At tc a helper of the kernel's brings checksums into line, with a zero of its own.
        let is_same = if hook.xdp {
            output.frame == packet.bytes()
        } else {
            wire::is_same(&output.frame, packet.bytes())
        };
        ensure!(
            verdict == Verdict::Drop || is_same,
            "packets differ; the kernel has {}\nthe model {}",
            Shown(&output.frame),
            Shown(packet.bytes())
        );
        self.compare_counts()?;
        self.list_rows();
        Ok(Some(output))
    }

    /// The random number that has the model take the port the kernel took, where it drew one. Nothing
    /// else depends on chance in this world: if more than one backend may be chosen, a hash decides.
    fn drawn(&self, hook: Hook, frame: &[u8]) -> Result<u32> {
        let Some(tuple) = Tuple::of(frame) else {
            return Ok(0);
        };
        let port = match tuple.key::<V4>(hook.direction) {
            Some(key) => V4::row(self.kernel, &key)?.map(|row| row.sport),
            None => match tuple.key::<V6>(hook.direction) {
                Some(key) => V6::row(self.kernel, &key)?.map(|row| row.sport),
                None => None,
            },
        };
        let Config {
            snat_first,
            snat_last,
            ..
        } = self.kernel.config()?;
        let port = port.map_or(snat_first, Port::number);
        let offset = u64::from(port.saturating_sub(snat_first));
        let count = u64::from(snat_last - snat_first) + 1;
        // The least number that is scaled to this offset.
        Ok((offset << 32).div_ceil(count) as u32)
    }

    /// Both have counted the same.
    fn compare_counts(&self) -> Result<()> {
        for reason in Reason::ALL {
            let (kernel, model) = (self.kernel.reason(*reason)?, self.model.count(*reason));
            ensure!(
                kernel == model,
                "the kernel has counted {} {kernel} times, the model {model}",
                reason.name()
            );
        }
        Ok(())
    }

    /// What was not translated since the beginning, by its reason.
    pub(crate) fn counted(&self) -> BTreeMap<Reason, u64> {
        self.model.tables.reasons.borrow().clone()
    }

    /// Both are left with the same rows, clients and counters of services.
    pub(crate) fn compare_state(&self) -> Result<()> {
        self.compare_family::<V4>()?;
        self.compare_family::<V6>()?;
        for id in 0..World::services() {
            let kernel = self.kernel.service(id)?;
            let model: ServiceCounters = self.model.counters(id);
            ensure!(
                kernel == model,
                "service {id}: {kernel:?}, but in the model {model:?}"
            );
        }
        Ok(())
    }

    fn compare_family<A: Typed + HasTable + HasServices>(&self) -> Result<()> {
        let rows = &A::rows_of(&self.model.flows).rows;
        let kernel = A::rows(self.kernel)?;
        for (key, row) in &kernel {
            let model = rows.get(key);
            let model = model.with_context(|| format!("only the kernel has {key:?}: {row:?}"))?;
            let (row, model) = (timeless(row), timeless(model));
            ensure!(
                row == model,
                "of {key:?} the kernel has\n{row:?}, the model\n{model:?}"
            );
        }
        ensure!(
            kernel.len() == rows.len(),
            "{} rows, in the model {}",
            kernel.len(),
            rows.len()
        );
        let clients = A::services(&self.model.tables).affinity.borrow();
        let kernel = A::remembered(self.kernel)?;
        for (client, memory) in &kernel {
            compare_client(client, memory, clients.get(client))?;
        }
        ensure!(
            kernel.len() == clients.len(),
            "only the model remembers some of {clients:?}"
        );
        Ok(())
    }

    pub(crate) fn list_rows(&mut self) {
        if self.listed == self.model.flows.writes {
            return;
        }
        self.listed = self.model.flows.writes;
        self.known.clear();
        let HostFlows { v4, v6, .. } = &self.model.flows;
        let rows = v4.rows.iter().map(known).chain(v6.rows.iter().map(known));
        self.known
            .extend(rows.filter(|row| row.is_among(&self.world.routed)));
        self.known
            .sort_by_key(|row| (row.src, row.dst, row.proto, row.direction as u8));
    }
}

fn known<A: Addr>((key, row): (&FlowKey<A>, &Flow<A>)) -> Known {
    let end = |addr: A, port: Port| SocketAddr::new(addr.to_ip(), port.number());
    Known {
        proto: key.proto,
        direction: key.direction(),
        src: end(key.src, key.sport),
        dst: end(key.dst, key.dport),
        onward: (end(row.src, row.sport), end(row.dst, row.dport)),
    }
}

/// A row without what may differ: stamps, which each side takes from a clock of its own, and MACs that
/// nobody writes, since the interface is not one for that.
fn timeless<A: Addr>(row: &Flow<A>) -> Flow<A> {
    let mut row = *row;
    row.seen = Tick::default();
    row.hop.resolved = Tick::default();
    if !row.has_link(link::DIRECT) {
        row.hop.macs = Hop::NONE.macs;
    }
    row
}

fn compare_client<A: Addr>(
    client: &ClientKey<A>,
    kernel: &Remembered,
    model: Option<&Remembered>,
) -> Result<()> {
    let timeless = |memory: &Remembered| Remembered {
        seen: Tick::default(),
        ..*memory
    };
    let (kernel, model) = (timeless(kernel), model.map(timeless));
    ensure!(
        model == Some(kernel),
        "of {client:?} the kernel knows {kernel:?}, the model {model:?}"
    );
    Ok(())
}

pub(crate) fn nanos() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}
