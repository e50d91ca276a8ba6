//! Golden cases: `testdata/<case>.txt` holds what the API server says, `testdata/<case>.snap` the
//! batches.
//!
//! `== list: title` starts a list of every kind, with the objects below it and no others;
//! `== list of KIND: title` one of a kind; `== broken list of KIND: title` one that does not end;
//! `== watch: title` single events. There, an object under `deleted:` is deleted.

use std::{collections::BTreeMap, fmt::Write, path::PathBuf, time::SystemTime};

use k8s_openapi::jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{
    assembly::{Assembly, Report},
    convert::{Converted, Object, Rules},
    failure::{Failure, Trouble},
    kind::Kind,
    ledger::Ledger,
    objects::{EndpointSlice, Node, Pod, Service, ServiceCidr},
};
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
    addresses
    annotations
    hostile
    lists
    networks
    node
    not_programmed
    pods
    service
    slices
    triggers
}

fn testdata() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/source/kubernetes/testdata")
}

fn check(case: &str) {
    let text = std::fs::read_to_string(testdata().join(format!("{case}.txt"))).unwrap();
    let mut server = Server::new();
    let mut output = String::new();
    let (intro, steps) = text.split_once("== ").unwrap();
    for step in steps.split("\n== ") {
        let (title, objects) = step.split_once('\n').unwrap_or((step, ""));
        writeln!(output, "== {title}").unwrap();
        output += &server.step(title, objects);
    }
    insta::with_settings!({
        snapshot_path => testdata(),
        prepend_module_to_snapshot => false,
        description => intro.trim(),
        omit_expression => true,
    }, {
        insta::assert_snapshot!(case, output);
    });
}

/// Half of an API server.
struct Server {
    ledgers: BTreeMap<Kind, Ledger>,
    assembly: Assembly,
}

impl Server {
    fn new() -> Self {
        let started: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let started = SystemTime::from(started);
        let kinds = Kind::ALWAYS.into_iter().chain([Kind::Pod]);
        let ledgers = kinds.clone().map(|kind| (kind, Ledger::new(kind, started)));
        Self {
            ledgers: ledgers.collect(),
            assembly: Assembly::new(kinds),
        }
    }

    fn step(&mut self, title: &str, objects: &str) -> String {
        let (what, _) = title.split_once(": ").unwrap();
        let kind = what.split_once(" of ").map(|(_, kind)| kind);
        let listed =
            |listed: Kind| what != "watch" && kind.is_none_or(|kind| kind == listed.to_string());
        let begun = self.ledgers.iter_mut().filter(|(kind, _)| listed(**kind));
        begun.for_each(|(_, ledger)| ledger.begin());
        let documents: Vec<Value> = serde_saphyr::from_multiple(objects).unwrap();
        for object in documents {
            self.event(object);
        }
        if !what.starts_with("broken") {
            self.ledgers.values_mut().for_each(Ledger::finish);
        }
        for (kind, ledger) in &mut self.ledgers {
            if let Some(delta) = ledger.take() {
                self.assembly.take_in(Report::Delta(*kind, delta));
            }
        }
        if !self.assembly.is_news() {
            return "(nothing)\n".to_owned();
        }
        render::batch(&self.assembly.take())
    }

    fn event(&mut self, mut object: Value) {
        let deleted = object.get_mut("deleted").map(Value::take);
        let is_deleted = deleted.is_some();
        let object = deleted.unwrap_or(object);
        let (kind, converted) = match object["kind"].as_str().unwrap() {
            "Service" => read::<Service>(object),
            "EndpointSlice" => read::<EndpointSlice>(object),
            "Node" => read::<Node>(object),
            "ServiceCIDR" => read::<ServiceCidr>(object),
            "Pod" => read::<Pod>(object),
            other => panic!("{other}?"),
        };
        let ledger = self.ledgers.get_mut(&kind).unwrap();
        if is_deleted {
            ledger.remove(&converted.name);
        } else {
            ledger.put(converted);
        }
    }
}

fn read<T: Object + DeserializeOwned>(object: Value) -> (Kind, Converted) {
    let object: T = serde_json::from_value(object).unwrap();
    (T::KIND, object.convert(Rules { external_ips: true }))
}

fn trouble(since: &str, failure: &Failure) -> Trouble {
    Trouble {
        since: since.to_owned(),
        server: "https://192.0.2.1:6443".to_owned(),
        unreachable: matches!(failure, Failure::Lost(_)),
        cause: failure.to_string(),
    }
}

/// All kinds, each listed and empty.
fn empty_lists(assembly: &mut Assembly, kinds: &[Kind]) {
    for kind in kinds {
        let mut ledger = Ledger::new(*kind, SystemTime::UNIX_EPOCH);
        ledger.begin();
        ledger.finish();
        let delta = ledger.take().unwrap();
        assembly.take_in(Report::Delta(*kind, delta));
    }
}

#[test]
fn nothing_is_told_before_everything_is_known() {
    let mut assembly = Assembly::new(Kind::ALWAYS);
    for kind in Kind::ALWAYS {
        assert!(!assembly.is_news(), "before {kind}");
        empty_lists(&mut assembly, &[kind]);
    }
    assert!(assembly.is_news());
    assert!(!assembly.take().unseen);
    assert!(!assembly.is_news());
}

#[test]
fn what_is_not_vital_is_not_waited_for_in_vain() {
    let mut assembly = Assembly::new(Kind::ALWAYS);
    empty_lists(&mut assembly, &[Kind::Service, Kind::EndpointSlice]);
    assembly.take_in(Report::Hopeless(Kind::ServiceCidr));
    assert!(!assembly.is_news());
    assembly.take_in(Report::Hopeless(Kind::Node));
    assert!(assembly.is_news());
    assert!(!assembly.take().unseen);
}

#[test]
fn troubles_are_told_in_plain_words_and_end() {
    let mut assembly = Assembly::new(Kind::ALWAYS);
    let mut told = String::new();
    let mut tell = |title: &str, assembly: &mut Assembly| {
        let batch = assembly.take();
        let problems = render::batch(&batch);
        writeln!(told, "== {title} (unseen: {})\n{problems}", batch.unseen).unwrap();
    };
    let lost = Failure::Lost("Connection refused (os error 111)".to_owned());
    let forbidden = Failure::Refused {
        code: 403,
        message: "servicecidrs is forbidden".to_owned(),
    };
    for (kind, since) in [(Kind::Service, "T10:00:05Z"), (Kind::Node, "T10:00:01Z")] {
        assembly.take_in(Report::Trouble(kind, Some(trouble(since, &lost))));
    }
    tell("never reached", &mut assembly);
    for kind in [Kind::Service, Kind::Node] {
        assembly.take_in(Report::Trouble(kind, None));
    }
    assembly.take_in(Report::Trouble(
        Kind::ServiceCidr,
        Some(trouble("T10:00:09Z", &forbidden)),
    ));
    tell("reached, but a kind is refused", &mut assembly);
    empty_lists(&mut assembly, &Kind::ALWAYS);
    assembly.take_in(Report::Trouble(Kind::ServiceCidr, None));
    tell("all is well", &mut assembly);
    insta::assert_snapshot!(told);
}

#[test]
fn external_ips_can_be_switched_off() {
    let object = r#"{"metadata": {"name": "a", "namespace": "b"},
        "spec": {"clusterIP": "10.96.0.1", "externalIPs": ["192.0.2.1"]}}"#;
    let object: Service = serde_json::from_str(object).unwrap();
    for external_ips in [false, true] {
        let converted = object.convert(Rules { external_ips });
        let Some(super::convert::Value::Service(service)) = converted.value else {
            panic!("no Service");
        };
        assert_eq!(service.external_ips.is_empty(), !external_ips);
    }
}
