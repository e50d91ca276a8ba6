//! What every verb prints, from fixed data; the expected texts are in `snapshots/`.

mod fixture;

use clap::{CommandFactory, Parser};

use self::fixture::{
    backend, dump, features, frontend, frontends, frontends_use, healthy, links, services,
};
use super::{
    Cli, Error, Paint,
    output::{Detail, Format},
    service::{self, ServiceList},
    snapshot::{BackendRef, Section, Snapshot},
    status::{self, MapUse},
    tables,
};
use crate::status::{FeatureState, KernelFeature, Loading, Mode, TcWay};

const FORMATS: [(Format, &str); 4] = [
    (Format::Table, "table"),
    (Format::Wide, "wide"),
    (Format::Json, "json"),
    (Format::Yaml, "yaml"),
];

#[test]
fn maps_dump_shows_every_map_in_every_format() {
    for (format, name) in FORMATS {
        let text = format.render(&dump(), tables::render).unwrap();
        insta::assert_snapshot!(format!("maps_dump.{name}"), text);
    }
}

#[test]
fn maps_dump_of_one_map_has_no_title_and_one_key() {
    for (format, name) in FORMATS {
        let one = Snapshot {
            sections: vec![Section::Links(links())],
        };
        let text = format.render(&one, tables::render).unwrap();
        insta::assert_snapshot!(format!("maps_dump_links.{name}"), text);
    }
}

#[test]
fn a_dump_of_inconsistent_maps_says_what_does_not_fit() {
    let mut frontend = frontend("10.96.0.7", 80, 99, &[]);
    frontend.service = None;
    frontend.inside.slot_count = 2;
    frontend.inside.backends = vec![
        BackendRef {
            at: None,
            ..backend(70_000, "0.0.0.0", 0)
        },
        BackendRef {
            alive: false,
            ..backend(3, "10.0.1.9", 8080)
        },
    ];
    let dump = Snapshot {
        sections: vec![Section::Frontends(vec![frontend])],
    };
    insta::assert_snapshot!(tables::render(&dump, Detail::Full));
}

#[test]
fn service_list_in_every_format() {
    for (format, name) in FORMATS {
        let list = ServiceList::new(None, services(), &frontends());
        let text = format.render(&list, service::render).unwrap();
        insta::assert_snapshot!(format!("service_list.{name}"), text);
    }
}

#[test]
fn service_list_of_one_namespace_shows_no_other() {
    let of = |namespace: &str| {
        let list = ServiceList::new(Some(namespace.to_owned()), services(), &frontends());
        service::render(&list, Detail::Brief)
    };
    insta::assert_snapshot!([of("ops"), of("default")].join("\n"));
}

#[test]
fn status_in_every_format() {
    for (format, name) in FORMATS {
        let text = format
            .render(&healthy(), |report, detail| {
                status::render(report, detail, Paint::OFF)
            })
            .unwrap();
        insta::assert_snapshot!(format!("status.{name}"), text);
    }
}

#[test]
fn status_of_a_node_in_trouble() {
    let mut report = healthy();
    report.agent_running = false;
    report.capacities[0] = MapUse::new("FRONTENDS4", frontends_use(104_858));
    let agent = report.agent.as_mut().unwrap();
    agent.last_sync = None;
    agent.without_ipv6 = Some("the kernel has no IPv6".to_owned());
    agent.problems = vec![
        "shop.yaml: document 2: spec.ports[0].port: 70000 is not a port".to_owned(),
        "a name with \u{1b}[31m in it".to_owned(),
    ];
    agent.interfaces[2].mode = Mode::None;
    agent.interfaces[2].reason = "no such interface".to_owned();
    report.warnings = status::warnings(&report);
    insta::assert_snapshot!(status::render(&report, Detail::Brief, Paint::OFF));
}

#[test]
fn status_says_which_programs_are_being_loaded() {
    let line = |loading| {
        let mut report = healthy();
        report.agent.as_mut().unwrap().loading = loading;
        let text = status::render(&report, Detail::Brief, Paint::OFF);
        text.lines()
            .find(|line| line.starts_with("Loading:"))
            .map(str::to_owned)
    };
    insta::assert_snapshot!(line(Loading::DataPath).unwrap(), @"Loading:        the programs of the data path; till then this node is served as an earlier agent left it");
    insta::assert_snapshot!(line(Loading::DryRuns).unwrap(), @"Loading:        the programs that `lbctl explain` asks; traffic is served");
    assert_eq!(line(Loading::Nothing), None);
}

#[test]
fn status_of_a_node_whose_kernel_is_old() {
    let mut report = healthy();
    let agent = report.agent.as_mut().unwrap();
    agent.tc_attach = TcWay::Clsact;
    agent.kernel = features(&["tcx links", "SO_NETNS_COOKIE"]);
    agent.kernel[1] = KernelFeature {
        state: FeatureState::Unknown,
        error: Some("Operation not permitted (os error 1)".to_owned()),
        ..agent.kernel[1].clone()
    };
    insta::assert_snapshot!(status::render(&report, Detail::Brief, Paint::OFF));
}

#[test]
fn status_before_an_agent_has_written_any() {
    let mut report = healthy();
    report.agent = None;
    report.agent_running = false;
    report.warnings = status::warnings(&report);
    insta::assert_snapshot!(status::render(&report, Detail::Brief, Paint::OFF));
}

#[test]
fn eighty_percent_is_nearly_full() {
    let nearly_full = |used| MapUse::new("FRONTENDS4", frontends_use(used)).nearly_full;
    assert!(!nearly_full(104_857));
    assert!(nearly_full(104_858));
}

#[test]
fn every_verb_explains_itself() {
    let mut help = Vec::new();
    for verb in [
        &[][..],
        &["explain"],
        &["maps"],
        &["maps", "dump"],
        &["service"],
        &["service", "list"],
        &["status"],
    ] {
        let mut command = Cli::command().term_width(100);
        command.build();
        let command = verb.iter().fold(&mut command, |command, name| {
            command.find_subcommand_mut(name).unwrap()
        });
        help.push(command.render_long_help().to_string());
    }
    insta::assert_snapshot!(help.join("\n----\n"));
}

#[test]
fn maps_are_known_by_either_name_in_any_case() {
    for name in [
        "flows",
        "FLOWS",
        "flows6",
        "FLOWS4",
        "service_names",
        "status",
    ] {
        Cli::try_parse_from(["lbctl", "maps", "dump", name]).unwrap();
    }
    let error = Cli::try_parse_from(["lbctl", "maps", "dump", "conntrack"]).unwrap_err();
    insta::assert_snapshot!(error.to_string());
}

#[test]
fn without_pins_the_error_says_where_it_looked() {
    let error = run(&["lbctl", "status", "--bpffs", "/nonexistent"]).unwrap_err();
    insta::assert_snapshot!(super::chain(&error), @"no Fairlead maps under /nonexistent/fairlead/v5: is lb-agent running on this node (or was it given another --bpffs)?");
}

#[test]
fn version_names_the_layouts() {
    let version = run(&["lbctl", "version"]).unwrap();
    assert!(version.ends_with("(map layouts v5)\n"), "{version}");
}

fn run(args: &[&str]) -> Result<String, Error> {
    let mut out = Vec::new();
    Cli::try_parse_from(args)
        .unwrap()
        .run(&mut out, Paint::OFF)?;
    Ok(String::from_utf8(out).unwrap())
}
