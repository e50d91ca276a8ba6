//! How things are, as the agent's loop last told it.

use super::{
    definitions as d,
    family::{Family, family, number, single},
};
use crate::{
    control::Usage,
    status::{Interface, Mode, Role},
};

/// How things are.
#[derive(Clone, Debug, Default)]
pub(in crate::agent::serve) struct State {
    /// How full the maps are.
    pub(in crate::agent::serve) usage: Vec<Usage>,
    /// Number of frontends that a Service asks for and another has.
    pub(in crate::agent::serve) conflicts: usize,
    /// Interfaces.
    pub(in crate::agent::serve) interfaces: Vec<Interface>,
    /// Number of problems, by where they belong.
    pub(in crate::agent::serve) problems: Vec<(&'static str, usize)>,
    /// Number of health check servers that are open, and of those that failed to open.
    pub(in crate::agent::serve) health_checks: (usize, usize),
}

impl State {
    pub(super) fn families(&self) -> Vec<Family> {
        let Self {
            usage,
            conflicts,
            interfaces,
            problems,
            health_checks: (open, failed),
        } = self;
        let of_map = |value: fn(&Usage) -> u32| {
            let samples = usage.iter().map(move |usage| {
                let labels = vec![usage.map.to_owned()];
                (labels, f64::from(value(usage)))
            });
            samples.collect::<Vec<_>>()
        };
        let servers = [("open", open), ("failed", failed)];
        vec![
            build(),
            family(&d::MAP_ENTRIES, of_map(|usage| usage.used)),
            family(&d::MAP_CAPACITY, of_map(|usage| usage.capacity)),
            single(&d::CONFLICTS, number(*conflicts as u64)),
            family(&d::INTERFACES, interfaces.iter().map(attached)),
            family(
                &d::PROBLEMS,
                problems
                    .iter()
                    .map(|(area, count)| (vec![(*area).to_owned()], number(*count as u64))),
            ),
            family(
                &d::HEALTH_CHECKS,
                servers.map(|(state, count)| (vec![state.to_owned()], number(*count as u64))),
            ),
        ]
    }
}

fn build() -> Family {
    let version = env!("CARGO_PKG_VERSION").to_owned();
    family(&d::BUILD, [(vec![version], 1.0)])
}

fn attached(interface: &Interface) -> (Vec<String>, f64) {
    let role = match interface.role {
        Role::External => "external",
        Role::Pod => "pod",
    };
    let (mode, value) = match interface.mode {
        Mode::Xdp => ("xdp", 1.0),
        Mode::Tc => ("tc", 1.0),
        Mode::None => ("none", 0.0),
    };
    let labels = [&interface.name, role, mode];
    (labels.map(str::to_owned).to_vec(), value)
}
