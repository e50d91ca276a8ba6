//! What is exposed is what is defined, and what is documented.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

use k8s_openapi::jiff::Timestamp;

use super::{
    definitions::{ALL, Definition, Kind},
    kernel::Counted,
    process,
    registered::{Pass, Probe, Registered},
    requests,
    state::State,
    text,
};
use crate::{
    agent::{serve::moment::Moment, sockets::Destroyed, upkeep::Found},
    control::{ByFamily, NoLocalEndpoints, Usage},
    model::{Batch, Change, Endpoint, EndpointSlice, ObjectName},
    source::kubernetes::Requests,
    status::{Interface, Mode, Role},
};

/// Every metric with all its labels at least once.
fn everything() -> String {
    let now = Moment::now();
    let registered = Registered::new(now).unwrap();
    let state = State {
        usage: vec![Usage {
            map: "FRONTENDS4",
            used: 3,
            capacity: 100,
        }],
        conflicts: 4,
        interfaces: vec![Interface {
            name: "eth0".into(),
            index: 2,
            role: Role::External,
            mode: Mode::Xdp,
            reason: String::new(),
        }],
        problems: vec![("source", 2)],
        health_checks: (1, 0),
    };
    registered.queued(&batch(Vec::new()), now);
    for full in [true, false] {
        registered.applied(&pass(full, ByFamily::both(true)), now);
    }
    registered.no_local_endpoints(&ByFamily::both(NoLocalEndpoints {
        internal: 1,
        external: 2,
    }));
    registered.probed(Probe::Healthz, 200);
    registered.probed(Probe::Livez, 503);
    registered.conntrack("IPv4", Duration::from_millis(3), 5);
    registered.audited(Some(1));
    registered.sockets_destroyed(&Destroyed { tcp: 1, udp: 2 });
    registered.swept(
        "IPv4",
        &Found {
            rows: [1, 2, 3, 4, 5],
            expired: [6, 7, 8, 9, 10],
            abandoned: 11,
        },
    );
    registered.kernel_events(7);
    registered.pinged();
    let at = SystemTime::from(now.wall) + Duration::from_secs(1);
    let service = ObjectName::new("shop", "web");
    registered.queued(&batch(vec![(service, at)]), now);
    registered.applied(&pass(false, ByFamily::both(true)), now);
    let families = [
        registered.families(),
        registered.slis(),
        state.families(),
        Counted::example().families(),
        requests::families(&asked()),
        process::families(),
    ];
    text(families.concat())
}

fn asked() -> Requests {
    let requests = Requests::default();
    let request = http::Request::get("https://192.0.2.1:6443/api").body(());
    requests
        .sent(&request.unwrap())
        .answered(http::StatusCode::OK);
    requests
}

fn pass(full: bool, in_force: ByFamily<bool>) -> Pass {
    Pass {
        in_force,
        duration: Duration::from_millis(3),
        full,
        operations: 4,
        failures: 1,
    }
}

fn batch(triggers: Vec<(ObjectName, SystemTime)>) -> Batch {
    Batch {
        changes: vec![
            Change::Service(ObjectName::new("shop", "web"), None),
            Change::Slice(ObjectName::new("shop", "web-1"), Some(slice("10.0.0.1"))),
        ],
        triggers,
        ..Batch::default()
    }
}

fn slice(ip: &str) -> EndpointSlice {
    EndpointSlice {
        name: ObjectName::new("shop", "web-1"),
        service: "web".into(),
        ports: Vec::new(),
        endpoints: vec![Endpoint::at(ip.parse().unwrap())],
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Exposed {
    kind: String,
    help: String,
    labels: BTreeSet<String>,
}

/// Reads the text format: by metric its type, its help and the labels its samples have.
fn parse(text: &str) -> BTreeMap<String, Exposed> {
    let mut metrics: BTreeMap<String, Exposed> = BTreeMap::new();
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').unwrap();
            metrics.entry(name.into()).or_default().help = help.into();
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            metrics.entry(name.into()).or_default().kind = kind.into();
        } else {
            let (name, value) = line.rsplit_once(' ').unwrap();
            assert!(value.parse::<f64>().is_ok(), "{line}");
            let (name, labels) = name.split_once('{').unwrap_or((name, ""));
            let of_histogram = ["_bucket", "_sum", "_count"]
                .iter()
                .filter_map(|end| name.strip_suffix(end))
                .find(|name| metrics.contains_key(*name));
            let metric = metrics.get_mut(of_histogram.unwrap_or(name)).expect(line);
            let labels = labels.trim_end_matches('}').split("\",");
            let names = labels.filter_map(|label| Some(label.split_once('=')?.0.to_owned()));
            metric.labels.extend(names.filter(|name| name != "le"));
        }
    }
    metrics
}

fn kind(definition: &Definition) -> &'static str {
    match definition.kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram(_) => "histogram",
    }
}

#[test]
fn what_is_exposed_is_what_is_defined() {
    let defined: BTreeMap<String, Exposed> = ALL
        .iter()
        .map(|definition| {
            let exposed = Exposed {
                kind: kind(definition).to_owned(),
                help: definition.help.to_owned(),
                labels: definition.labels.iter().map(ToString::to_string).collect(),
            };
            (definition.name.to_owned(), exposed)
        })
        .collect();
    assert_eq!(defined.len(), ALL.len(), "a name is defined twice");
    assert_eq!(parse(&everything()), defined);
}

#[test]
fn the_document_lists_what_is_defined() {
    let rows: Vec<String> = ALL
        .iter()
        .map(|definition| {
            let Definition {
                name, labels, help, ..
            } = definition;
            let (kind, labels) = (kind(definition), labels.join(", "));
            format!("| `{name}` | {kind} | {labels} | {help} |\n")
        })
        .collect();
    let rows = rows.concat();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let document = fs::read_to_string(&path).unwrap();
    let header = "| metric | type | labels | meaning |\n|---|---|---|---|\n";
    assert!(
        document.contains(&format!("{header}{rows}\n")),
        "{} is to have these rows:\n\n{header}{rows}",
        path.display()
    );
}

#[test]
fn histograms_have_the_buckets_dashboards_know() {
    let exposed = everything();
    let bounds = |metric: &str| {
        let start = format!("{metric}_bucket{{ip_family=\"IPv4\",le=\"");
        let lines = exposed.lines().filter_map(|line| line.strip_prefix(&start));
        let bounds: Vec<_> = lines.filter_map(|rest| rest.split('"').next()).collect();
        bounds.join(" ")
    };
    insta::assert_snapshot!(bounds("kubeproxy_sync_proxy_rules_duration_seconds"));
    insta::assert_snapshot!(bounds("kubeproxy_network_programming_duration_seconds"));
}

/// The samples whose names begin like this.
fn samples(registered: &Registered, start: &str) -> String {
    let text = text(registered.families());
    let lines = text.lines().filter(|line| line.starts_with(start));
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn changes_are_pending_until_they_are_in_force_in_both_families() {
    let now = Moment::now();
    let registered = Registered::new(now).unwrap();
    let mut told = Vec::new();
    let mut tell = |when: &str| {
        told.push(when.to_owned());
        told.push(samples(&registered, "kubeproxy_sync_proxy_rules_service"));
        told.push(samples(&registered, "kubeproxy_sync_proxy_rules_endpoint"));
    };
    tell("at the start");
    registered.queued(&batch(Vec::new()), now);
    registered.queued(&batch(Vec::new()), now);
    tell("two batches have come");
    let half = ByFamily {
        v4: true,
        v6: false,
    };
    registered.applied(&pass(false, half), now);
    tell("in force in IPv4 only");
    registered.applied(&pass(false, ByFamily::both(true)), now);
    tell("in force");
    insta::assert_snapshot!(told.join("\n"));
}

#[test]
fn j10_programming_latency_counts_once_it_is_in_force_and_not_from_before_the_start() {
    let wall = |second: i64| Timestamp::from_second(1_772_366_400 + second).unwrap();
    let at = |second| Moment {
        wall: wall(second),
        ..Moment::now()
    };
    let registered = Registered::new(at(0)).unwrap();
    let service = ObjectName::new("shop", "web");
    let trigger = |second| (service.clone(), SystemTime::from(wall(second)));
    let both_v6 = Batch {
        changes: vec![Change::Slice(
            ObjectName::new("shop", "web-2"),
            Some(slice("fd00::1")),
        )],
        triggers: vec![trigger(5)],
        ..Batch::default()
    };
    let counts = || {
        let start = "kubeproxy_network_programming_duration_seconds";
        [
            samples(&registered, &format!("{start}_sum")),
            samples(&registered, &format!("{start}_count")),
        ]
        .join("\n")
    };
    // Before the start; three seconds before; in the future, by a clock that is ahead.
    registered.queued(&batch(vec![trigger(-1), trigger(7), trigger(11)]), at(9));
    registered.queued(&both_v6, at(9));
    assert_eq!(counts(), "\n", "nothing is in force yet");
    let v4_only = ByFamily {
        v4: true,
        v6: false,
    };
    registered.applied(&pass(false, v4_only), at(10));
    registered.applied(&pass(false, v4_only), at(11));
    registered.applied(&pass(false, ByFamily::both(true)), at(12));
    insta::assert_snapshot!(counts());
}
