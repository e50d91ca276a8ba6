//! Each case in `cases/` and the maps it makes.

use std::{fs, net::IpAddr, path::Path, time::Instant};

use insta::assert_snapshot;
use lb_userspace::{
    control::{Controller, Settings},
    maps::{Capacities, FamilyCapacities, Memory},
    model::{Batch, Change, EndpointSlice, Node, Service},
};
use serde::Deserialize;

use crate::{
    objects::{CAPACITIES, FAMILY},
    show::show,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    #[serde(default)]
    node: Option<Node>,
    #[serde(default)]
    own: Vec<IpAddr>,
    services: Vec<Service>,
    slices: Vec<EndpointSlice>,
}

#[test]
fn affinity() {
    assert_snapshot!(outcome("affinity"));
}

#[test]
fn algorithm() {
    let settings = Settings {
        maglev_table_size: 251.try_into().unwrap(),
        ..Settings::new("here")
    };
    assert_snapshot!(outcome_with("algorithm", settings));
}

#[test]
fn hints() {
    assert_snapshot!(outcome("hints"));
}

#[test]
fn source_ranges() {
    assert_snapshot!(outcome("source-ranges"));
}

#[test]
fn source_ranges_strictly() {
    let settings = Settings {
        strict_source_ranges: true,
        ..Settings::new("here")
    };
    assert_snapshot!(outcome_with("source-ranges", settings));
}

#[test]
fn cluster_ip() {
    assert_snapshot!(outcome("cluster-ip"));
}

#[test]
fn policies() {
    assert_snapshot!(outcome("policies"));
}

#[test]
fn contested() {
    assert_snapshot!(outcome("contested"));
}

fn outcome(case: &str) -> String {
    outcome_with(case, Settings::new("here"))
}

fn outcome_with(case: &str, settings: Settings) -> String {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/control/cases");
    let text = fs::read_to_string(cases.join(case).with_extension("yaml")).unwrap();
    let Case {
        node,
        own,
        services,
        slices,
    } = serde_saphyr::from_str(&text).unwrap();
    let services = services
        .into_iter()
        .map(|service| Change::Service(service.name.clone(), Some(service)));
    let slices = slices
        .into_iter()
        .map(|slice| Change::Slice(slice.name.clone(), Some(slice)));
    let batch = Batch {
        changes: services.chain(slices).chain([Change::Node(node)]).collect(),
        ..Batch::default()
    };

    let now = Instant::now();
    let v4 = FamilyCapacities {
        slots: 512,
        ..FAMILY
    };
    let maps = Memory::new(Capacities { v4, ..CAPACITIES });
    let mut controller = Controller::new(maps, settings);
    controller.set_node_addresses(own, now);
    let problems = controller.apply(batch, now).problems;
    format!(
        "{}\n{}",
        show(controller.maps().content()),
        problems.join("\n")
    )
}
