//! The driver: random changes, a controller, and the comparison with the model.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use lb_common::{V4, V6, service::ServiceName};
use lb_userspace::{
    control::{Controller, NodePortAddress, Settings},
    maps::{Dump, Fault, Faulty, LbMaps},
};
use tests::{
    frontends::{
        Frontends, Live, actual, affinities, expected, health_checks, keeping, listed, live, served,
    },
    random::Random,
};

use crate::{
    watched::Watched,
    world::{NODE, World},
};

/// Whether operations fail.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Faults {
    None,
    Some,
}

const GRACE: Duration = Duration::from_secs(5);
/// Between two changes: ranges and indices given back come into use again within a run.
const PACE: Duration = Duration::from_millis(150);

type Maps<M> = Faulty<Watched<M>>;

struct Churn<M> {
    controller: Controller<Maps<M>>,
    world: World,
    random: Random,
    settings: Settings,
    now: Instant,
    faults: Faults,
    /// Affinity of each family's service ids when the maps last were in line.
    affinities: [Affinities; 2],
    /// The backends that lived when the maps last were in line.
    live: Live,
}

/// Name, timeout and term, by service id.
type Affinities = BTreeMap<u32, (ServiceName, u32, u32)>;

/// Makes `steps` random changes and compares the maps with the model after each (with faults: as
/// soon as they are overcome), then takes everything away and finds the maps empty.
pub(crate) fn churn<M: LbMaps>(maps: M, steps: usize, seed: u64, faults: Faults) {
    let now = Instant::now();
    let mut settings = Settings::new(NODE);
    settings.node_port_addresses = [NodePortAddress::All].into_iter().collect();
    settings.grace = GRACE;
    settings.maglev_table_size = 251.try_into().unwrap();
    let watched = Watched::new(maps, now, GRACE);
    let mut churn = Churn {
        controller: Controller::new(Faulty::new(watched), settings.clone()),
        world: World::new(settings.node_port_addresses.clone()),
        random: Random::new(seed),
        settings,
        now,
        faults,
        affinities: Default::default(),
        live: Live::new(),
    };
    for step in 0..steps {
        churn.step();
        let healed = faults == Faults::None || !churn.random.one_in(4);
        if healed {
            churn.heal();
            churn.compare(step);
        }
        if healed && churn.random.one_in(200) {
            churn = churn.restart();
            churn.compare(step);
        }
    }
    churn.end();
}

impl<M: LbMaps> Churn<M> {
    fn step(&mut self) {
        self.now += PACE;
        let addresses = self.random.one_in(30);
        let batch = if addresses {
            self.world.change_addresses(&mut self.random);
            None
        } else {
            Some(self.world.change(&mut self.random))
        };
        self.allow();
        self.inject();
        match batch {
            Some(batch) => self.controller.apply(batch, self.now),
            None => self
                .controller
                .set_node_addresses(self.world.here.own.clone(), self.now),
        };
    }

    /// Lets the watch accept the endpoints as they have become, beside what they were.
    fn allow(&mut self) {
        let now = self.now;
        let endpoints = self.world.endpoints();
        let watched = self.controller.maps_mut().inner_mut();
        watched.now = now;
        for (service, sockets) in endpoints {
            watched.allowed.entry(service).or_default().extend(sockets);
        }
    }

    fn inject(&mut self) {
        if self.faults == Faults::None {
            return;
        }
        let faults: Vec<_> = (0..40)
            .map(|_| match self.random.below(12) {
                0 => Fault::Refused,
                1 => Fault::Unacknowledged,
                _ => Fault::None,
            })
            .collect();
        let maps = self.controller.maps_mut();
        maps.inject(faults);
        maps.inner_mut().frugal = false;
    }

    /// Lets operations succeed again and waits until all is done.
    fn heal(&mut self) {
        self.controller.maps_mut().inject([]);
        for _ in 0..3 {
            if self.controller.unfinished() {
                self.now += Duration::from_secs(30);
                self.controller.maps_mut().inner_mut().now = self.now;
                self.controller.tick(self.now);
            }
        }
        assert!(
            !self.controller.unfinished(),
            "{:?}",
            self.controller.tick(self.now)
        );
        let endpoints = self.world.endpoints();
        let watched = self.controller.maps_mut().inner_mut();
        watched.allowed = endpoints;
        watched.frugal = true;
    }

    fn compare(&mut self, step: usize) {
        let dump = self.controller.maps().dump().unwrap();
        let (objects, here) = (&self.world.objects, &self.world.here);
        let wanted = expected(objects, here);
        let found = actual(&dump).unwrap();
        for (key, leads) in &wanted {
            assert_eq!(found.get(key), Some(leads), "step {step}, {key:?}");
        }
        assert_eq!(
            found.len(),
            wanted.len(),
            "step {step}: frontends nobody asks for"
        );
        assert_eq!(
            self.controller.health_checks(),
            &health_checks(objects, here),
            "step {step}"
        );
        self.compare_backends(step, &found, &dump);
        let found = [affinities::<V4>(&dump), affinities::<V6>(&dump)].map(Result::unwrap);
        for (family, found) in found.into_iter().enumerate() {
            self.compare_affinity(step, family, found, &dump.names);
        }
    }

    /// What no frontend leads to lives on only for the flows it has, and they find it as it was.
    fn compare_backends(&mut self, step: usize, frontends: &Frontends, dump: &Dump) {
        let keeping = keeping(&self.world.objects, &self.world.here);
        let (listed, found) = (listed(frontends), live(dump).unwrap());
        // With faults it may have been listed in between.
        let faults = self.faults == Faults::Some;
        for endpoint in found.keys().filter(|endpoint| !listed.contains(endpoint)) {
            let kept = faults || self.live.contains_key(endpoint);
            assert!(
                kept && keeping.contains(endpoint),
                "step {step}: {endpoint:?} lives"
            );
        }
        let served = served(frontends);
        for (endpoint, entry) in self.live.iter().filter(|_| !faults) {
            let (port, socket, _) = endpoint;
            if keeping.contains(endpoint) && served.contains(&(port, socket.is_ipv6())) {
                let found = found.get(endpoint);
                assert_eq!(found, Some(entry), "step {step}: flows of {endpoint:?}");
            }
        }
        self.live = found;
        let watched = self.controller.maps_mut().inner_mut();
        watched.v4.look(&dump.v4);
        watched.v6.look(&dump.v6);
    }

    /// Affinity that goes on keeps its term; switched on again it has a new one.
    fn compare_affinity(
        &mut self,
        step: usize,
        family: usize,
        found: BTreeMap<u32, (u32, u32)>,
        names: &BTreeMap<u32, ServiceName>,
    ) {
        let of_service = |(id, (timeout, term))| (id, (names[&id], timeout, term));
        let found: Affinities = found.into_iter().map(of_service).collect();
        for (id, (name, timeout, term)) in &found {
            let Some((was, earlier, old)) = self.affinities[family].get(id) else {
                continue;
            };
            // With faults it may have been switched off and on in between.
            let seen = was == name && self.faults == Faults::None;
            match (*earlier > 0, *timeout > 0) {
                (false, true) if was == name => assert_ne!(term, old, "step {step}, service {id}"),
                (true, true) | (_, false) if seen => {
                    assert_eq!(term, old, "step {step}, service {id}");
                }
                _ => {}
            }
        }
        self.affinities[family] = found;
    }

    /// A new controller takes over: nothing is written, and nothing has drifted.
    fn restart(mut self) -> Self {
        // What the old one gave back is free at once: no packet is in flight that long.
        self.now += GRACE;
        let maps = self.controller.into_maps();
        let mut controller = Controller::new(maps, self.settings.clone());
        controller.adopt().unwrap();
        let early = controller.set_node_addresses(self.world.here.own.clone(), self.now);
        let first = controller.apply(self.world.whole(), self.now);
        assert_eq!(
            (early.operations, first.operations),
            (0, 0),
            "a restart writes nothing"
        );
        let (drifted, _) = controller.audit(self.now).unwrap();
        assert_eq!(drifted, 0);
        Self { controller, ..self }
    }

    fn end(mut self) {
        let last = self.world.end();
        self.controller.apply(last, self.now);
        self.heal();
        self.compare(usize::MAX);
        let dump = self.controller.maps().dump().unwrap();
        assert!(
            dump.names.is_empty() && dump.v4.frontends.is_empty() && dump.v6.frontends.is_empty()
        );
        for usage in self.controller.usage(self.now + GRACE) {
            assert_eq!(usage.used, 0, "{usage:?}");
        }
    }
}
