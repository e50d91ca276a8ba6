//! Whole nodes: one that is fine, Debian 12 beside kube-proxy, and one where all is wrong. Files are
//! recorded in `testdata`; interfaces, and what only a system call tells, are here.

use clap::Parser as _;
use lb_common::maps::ABI_VERSION;

use super::{
    attached::{TcPrograms, XdpProgram},
    pin_directory::Entry,
    recorded::{address, link, table, unpack},
    *,
};
use crate::{
    agent::{
        interface::Interface,
        options::Command,
        probe::{Feature, Features, State},
    },
    cli::output::Format,
};

/// What a record has no file for.
struct Rest {
    release: &'static str,
    lacks: &'static [Feature],
    entry: Reading<Entry>,
    cgroup: Result<&'static str, &'static str>,
    rules: Reading<Vec<String>>,
    network: Network,
}

fn options(words: &str) -> (Options, Vec<String>) {
    let words = ["lb-agent", "preflight", "--node-name", "node-a"]
        .into_iter()
        .chain(words.split_whitespace());
    let Command::Preflight(args) = Cli::try_parse_from(words).unwrap().command else {
        panic!("preflight was asked for");
    };
    let resolved = options::resolve_preflight(&args.node, &Host::default()).unwrap();
    (resolved.options, resolved.warnings)
}

/// The report on a recorded node.
fn check_recorded(words: &str, record: &str, rest: Rest) -> PreflightReport {
    let version = format!("fairlead/v{ABI_VERSION}");
    let root = unpack(&record.replace("fairlead/vABI", &version));
    let files = Files::recorded(root.path());
    let (options, ignored) = options(words);
    let Rest {
        release,
        lacks,
        entry,
        cgroup,
        rules,
        network,
    } = rest;
    let features = Features::by(|feature| {
        if lacks.contains(&feature) {
            State::Lacks
        } else {
            State::Has
        }
    });
    let tried = features::tried(&features, options.check_kernel());
    let mut kernel = kernel::read(&files, tried);
    release.clone_into(&mut kernel.release);
    "x86_64".clone_into(&mut kernel.machine);
    let sorted = Sorted::new(&options.selection, &network.table, &[]);
    let facts = NodeFacts {
        rights: RightsFacts {
            user: 0,
            ..rights::read(&files)
        },
        mounts: mounts::read(&files),
        pins: PinFacts {
            dir: options.bpffs.clone(),
            resolved: options.bpffs.clone(),
            entry,
            versions: files.names(options.bpffs.join("fairlead")),
            agent: None,
        },
        cgroup: CgroupFacts {
            located: cgroup.map(Into::into).map_err(str::to_owned),
        },
        modules: modules::read(&files, release),
        cni: cni::read(&files, &network.table),
        kube_proxy: kube_proxy::read(&files, rules, &network.table),
        ports: ports::read(&files),
        parameters: parameters::read(&files, root.path(), &sorted, options.conntrack()),
        kernel,
        network: Ok(network.clone()),
    };
    report(&facts, &options, ignored)
}

fn shown(report: &PreflightReport, format: Format) -> String {
    let table = |report: &PreflightReport, detail| report::render(report, detail, Paint::OFF);
    let text = format.render(report, table).unwrap();
    text.replace(env!("CARGO_PKG_VERSION"), "VERSION")
        .replace(&format!("fairlead/v{ABI_VERSION}"), "fairlead/vABI")
}

fn roots(mode: u32, empty: bool) -> Reading<Entry> {
    Reading::Value(Entry {
        directory: true,
        empty,
        owner: 0,
        mode,
    })
}

fn veth(index: u32, name: &str, mtu: u32) -> Interface {
    Interface {
        veth: true,
        uplink: false,
        peer_netns: Some(1),
        mtu,
        ..link(index, name)
    }
}

fn driver(name: &str, features: Option<u64>, offloads: &[&str]) -> Device {
    Device {
        driver: Some(name.to_owned()),
        features,
        offloads: Some(offloads.iter().map(|it| (*it).to_owned()).collect()),
    }
}

fn good() -> PreflightReport {
    let bridge = Interface {
        uplink: false,
        ..link(3, "cni0")
    };
    let links = vec![link(2, "eth0"), bridge, veth(4, "veth1a2b3c", 1500)];
    let addresses = [address(2, "192.0.2.16"), address(2, "2001:db8::10")];
    let network = Network {
        table: table(links, &addresses, &[2]),
        devices: [(2, driver("virtio_net", Some(0b111), &["rx-gro"]))].into(),
        attached: AttachedFacts::default(),
    };
    let rest = Rest {
        release: "6.12.118+deb13-amd64",
        lacks: &[],
        entry: roots(0o700, false),
        cgroup: Ok("/run/fairlead/cgroup"),
        rules: Reading::Value(Vec::new()),
        network,
    };
    check_recorded(
        "--bpffs /run/fairlead/bpf --cgroup /run/fairlead/cgroup --healthz-port 10257 --metrics-port 0",
        include_str!("testdata/good.node"),
        rest,
    )
}

fn debian_12() -> PreflightReport {
    let overlay = Interface {
        tunnel: true,
        uplink: false,
        mtu: 1450,
        ..link(3, "vxlan.calico")
    };
    let links = vec![link(2, "ens3"), overlay, veth(4, "cali0123456789a", 1450)];
    let addresses = [address(2, "192.0.2.12"), address(3, "10.1.12.0")];
    let network = Network {
        table: table(links, &addresses, &[2]),
        devices: [(2, driver("virtio_net", None, &["rx-gro"]))].into(),
        attached: AttachedFacts::default(),
    };
    let rest = Rest {
        release: "6.1.0-57-amd64",
        lacks: &[Feature::Tcx],
        entry: roots(0o700, true),
        cgroup: Ok("/sys/fs/cgroup"),
        rules: Reading::Value(vec!["chains that iptables-save shows as KUBE-*".into()]),
        network,
    };
    let record = include_str!("testdata/debian-12.node");
    check_recorded("--proxy-mode iptables", record, rest)
}

fn broken() -> PreflightReport {
    let bonded = Interface {
        bonded: true,
        ..link(3, "eth1")
    };
    let jumbo = Interface {
        mtu: 9001,
        ..link(2, "eth0")
    };
    let tunnel = Interface {
        ethernet: false,
        uplink: false,
        ..link(4, "tunl0")
    };
    let links = vec![
        jumbo,
        bonded,
        tunnel,
        link(5, "cilium_host"),
        veth(6, "lxc1", 65535),
    ];
    let addresses = [
        address(2, "10.0.0.10"),
        address(3, "10.0.1.10"),
        address(4, "10.1.0.1"),
    ];
    let xdp = |id| XdpProgram {
        id,
        name: Some("cil_xdp_entry".into()),
        ours: false,
    };
    let tc = TcPrograms {
        foreign: vec![
            "ingress cil_from_netdev".into(),
            "egress cil_to_netdev".into(),
        ],
    };
    let network = Network {
        table: table(links, &addresses, &[]),
        devices: [(2, driver("ena", None, &["rx-lro"]))].into(),
        attached: AttachedFacts {
            xdp: [(2, xdp(42))].into(),
            tc: [(2, tc)].into(),
            qdiscs: [(2, "ingress".to_owned())].into(),
        },
    };
    let rest = Rest {
        release: "5.10.0-46-amd64",
        lacks: &[
            Feature::Jit,
            Feature::RedirectNeigh,
            Feature::Tcx,
            Feature::NetnsCookie,
        ],
        entry: roots(0o700, false),
        cgroup: Err("no cgroup2 hierarchy is mounted; mount one, or name it by --cgroup"),
        rules: Reading::Missing,
        network,
    };
    check_recorded(
        "--external-interface eth0,eth1,eth7 --bind-address-hard-fail --socket-lb all",
        include_str!("testdata/broken.node"),
        rest,
    )
}

#[test]
fn a_good_node_has_nothing_to_do() {
    let report = good();
    assert_eq!(report.state, FindingState::Ok);
    insta::assert_snapshot!("good.table", shown(&report, Format::Table));
    insta::assert_snapshot!("good.json", shown(&report, Format::Json));
}

#[test]
fn debian_12_beside_kube_proxy_has_warnings() {
    let report = debian_12();
    assert_eq!(report.state, FindingState::Warning);
    insta::assert_snapshot!("debian-12.table", shown(&report, Format::Table));
    insta::assert_snapshot!("debian-12.json", shown(&report, Format::Json));
}

#[test]
fn a_broken_node_has_every_failure_named() {
    let report = broken();
    assert_eq!(report.state, FindingState::Failure);
    insta::assert_snapshot!("broken.table", shown(&report, Format::Table));
    insta::assert_snapshot!("broken.wide", shown(&report, Format::Wide));
    insta::assert_snapshot!("broken.json", shown(&report, Format::Json));
}

#[test]
fn every_finding_that_is_not_ok_says_why_and_what_to_do_in_a_line() {
    for report in [good(), debian_12(), broken()] {
        for finding in &report.findings {
            let texts = [
                Some(&finding.found),
                finding.why.as_ref(),
                finding.action.as_ref(),
            ];
            let lines = texts
                .into_iter()
                .flatten()
                .all(|it| !it.is_empty() && !it.contains('\n'));
            let told = finding.why.is_some() && finding.action.is_some();
            assert!(
                lines && (told || finding.state == FindingState::Ok),
                "{finding:?}"
            );
        }
    }
}

#[test]
fn a_check_has_one_finding_on_a_subject() {
    for report in [good(), debian_12(), broken()] {
        let names = report
            .findings
            .iter()
            .map(|it| (it.check, it.subject.as_deref()));
        let mut names: Vec<_> = names.collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count, "{names:?}");
    }
}

#[test]
fn options_of_run_that_end_it_at_once_are_none_of_preflights() {
    for word in ["--cleanup", "--init-only", "--write-config-to=/x"] {
        let words = ["lb-agent", "preflight", word];
        assert!(Cli::try_parse_from(words).is_err(), "{word}");
    }
}
