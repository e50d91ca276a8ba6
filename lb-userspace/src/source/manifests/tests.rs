//! Golden cases: `testdata/<case>.txt` holds steps of files, `testdata/<case>.snap` the batches.
//!
//! `== title` starts a step; `-- name` starts a file that is written in it, `-- name: gone` and
//! `-- name: unreadable` say what else became of one. A title that ends in `(restart)` starts a new
//! control plane with the memory of the one before, in `(directory vanished)` a look that
//! finds no directory.

mod property;

use std::{collections::BTreeMap, fmt::Write};

use super::{Cluster, ControlPlane, FileChange, Memory, Update};
use crate::source::render;

macro_rules! cases {
    ($($case:ident)*) => {
        $(
            #[test]
            fn $case() {
                check(stringify!($case));
            }
        )*

        #[test]
        fn every_case_is_run() {
            let files = std::fs::read_dir(testdata()).unwrap();
            let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
            let mut cases: Vec<String> = names
                .filter_map(|name| name.strip_suffix(".txt").map(str::to_owned))
                .collect();
            cases.sort();
            assert_eq!(cases, [$(stringify!($case)),*]);
        }
    };
}

cases! {
    allocation
    annotations
    collisions
    defaults
    dual_stack
    endpoints
    endpoints_validation
    files
    last_good
    lists
    named_ports
    node
    not_programmed
    pods
    restart
    service_validation
    slices
    socket_lb
}

pub(super) fn cluster() -> Cluster {
    Cluster {
        node_name: "n1".to_owned(),
        cluster_ranges: vec![
            "10.96.0.0/16".parse().unwrap(),
            "fd00:96::/112".parse().unwrap(),
        ],
        node_ports: 30_000..=32_767,
    }
}

fn testdata() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/source/manifests/testdata")
}

fn check(case: &str) {
    let text = std::fs::read_to_string(testdata().join(format!("{case}.txt"))).unwrap();
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("testdata");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.set_description(text.lines().next().unwrap_or_default());
    settings.bind(|| insta::assert_snapshot!(case, run(&text)));
}

/// Runs the steps of a case; returns what each of them sends.
fn run(text: &str) -> String {
    let mut cluster = cluster();
    let mut files: BTreeMap<String, FileChange> = BTreeMap::new();
    let mut last_good = BTreeMap::new();
    let mut control_plane = ControlPlane::new(cluster.clone(), Memory::default());
    let mut output = String::new();
    for step in steps(text) {
        if let Some(ranges) = step.title.strip_prefix("ranges ") {
            cluster.cluster_ranges = ranges.split(',').map(|r| r.parse().unwrap()).collect();
            control_plane = restarted(&control_plane, &cluster, &last_good);
            continue;
        }
        files.extend(step.files.clone());
        let mut update = Update {
            files: step.files,
            problems: Vec::new(),
        };
        if step.title.contains("(restart)") {
            control_plane = restarted(&control_plane, &cluster, &last_good);
            update.files.clone_from(&files);
        }
        if step.title.ends_with("(directory vanished)") {
            update.files.clear();
            update.problems.push("/manifests: not there".to_owned());
        }
        let batch = control_plane.apply(update);
        writeln!(output, "== {}", step.title).unwrap();
        output += &render::batch(&batch);
        for (name, change) in &files {
            match change {
                FileChange::Content(bytes) if control_plane.is_good(name) => {
                    last_good.insert(name.clone(), bytes.clone());
                }
                FileChange::Content(_) | FileChange::Unreadable(_) => {}
                FileChange::Gone => drop(last_good.remove(name)),
            }
        }
    }
    output
}

fn restarted(
    before: &ControlPlane,
    cluster: &Cluster,
    last_good: &BTreeMap<String, Vec<u8>>,
) -> ControlPlane {
    let memory = Memory {
        allocations: before.allocations(),
        last_good: last_good.clone(),
    };
    ControlPlane::new(cluster.clone(), memory)
}

struct Step {
    title: String,
    files: BTreeMap<String, FileChange>,
}

fn steps(text: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut file = None;
    for line in text.lines() {
        if let Some(title) = line.strip_prefix("== ") {
            steps.push(Step {
                title: title.to_owned(),
                files: BTreeMap::new(),
            });
            file = None;
            continue;
        }
        let Some(step) = steps.last_mut() else {
            continue;
        };
        if let Some(header) = line.strip_prefix("-- ") {
            let (name, change) = match header.split_once(": ") {
                None => (header, FileChange::Content(Vec::new())),
                Some((name, "gone")) => (name, FileChange::Gone),
                Some((name, reason)) => (name, FileChange::Unreadable(reason.to_owned())),
            };
            step.files.insert(name.to_owned(), change);
            file = Some(name.to_owned());
        } else if let Some(name) = &file
            && let Some(FileChange::Content(bytes)) = step.files.get_mut(name)
        {
            bytes.extend_from_slice(line.as_bytes());
            bytes.push(b'\n');
        }
    }
    steps
}
