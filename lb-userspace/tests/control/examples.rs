//! The manifests of `examples/`, all the way into maps and out again.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use insta::assert_snapshot;
use lb_userspace::{
    control::{Controller, Settings},
    maps::Memory,
    source::manifests::{Cluster, ControlPlane, FileChange, Memory as Remembered, Update},
};

use crate::{objects::CAPACITIES, show::show};

#[test]
fn on_the_node_of_two_pods() {
    assert_snapshot!(there_and_back("node-a"));
}

#[test]
fn on_the_node_of_one_pod() {
    assert_snapshot!(there_and_back("node-b"));
}

/// The maps that the examples make on a node. With all files gone, so is all that was in the maps.
fn there_and_back(node: &str) -> String {
    let cluster = Cluster {
        node_name: node.to_owned(),
        cluster_ranges: vec![
            "10.96.0.0/16".parse().unwrap(),
            "fd00:96::/112".parse().unwrap(),
        ],
        node_ports: 30000..=32767,
    };
    let mut source = ControlPlane::new(cluster, Remembered::default());
    let mut controller = Controller::new(Memory::new(CAPACITIES), Settings::new(node));
    let now = Instant::now();
    let files = examples();
    assert!(files.len() > 5, "the examples are missing");

    let arrival = source.apply(update(&files, |content| {
        FileChange::Content(content.clone())
    }));
    assert!(arrival.problems.is_empty(), "{:?}", arrival.problems);
    let outcome = controller.apply(arrival, now);
    assert!(outcome.problems.is_empty(), "{:?}", outcome.problems);
    let maps = show(controller.maps().content());

    let departure = source.apply(update(&files, |_| FileChange::Gone));
    controller.apply(departure, now);
    controller.tick(now + Duration::from_secs(60));
    let rest = controller.maps().content();
    assert!(rest.names.is_empty(), "{:?}", rest.names);
    assert!(rest.v4.frontends.is_empty() && rest.v6.frontends.is_empty());
    maps
}

fn update(files: &BTreeMap<String, Vec<u8>>, change: impl Fn(&Vec<u8>) -> FileChange) -> Update {
    let files = files
        .iter()
        .map(|(name, content)| (name.clone(), change(content)));
    Update {
        files: files.collect(),
        problems: Vec::new(),
    }
}

fn examples() -> BTreeMap<String, Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().extension().is_some_and(|it| it == "yaml"))
        .map(|entry| {
            let name = entry.file_name().into_string().unwrap();
            (name, fs::read(entry.path()).unwrap())
        })
        .collect()
}
