//! Flags and files, to what is in force.

mod files;

use std::{fmt::Write as _, path::PathBuf};

use clap::{CommandFactory as _, Parser as _};
use glob::Pattern;

use super::{
    Cli, Command, Host, Options, Resolved, Task,
    file::{self, File},
    resolve,
    resolve::resolve_with,
};
use crate::agent::{interface::Selection, logging::Level};

const LEAST: &str = "--manifests /m --node-name node-a";

fn host() -> Host {
    Host {
        node_name: None,
        name: "Host-1".into(),
        service_account: false,
        without_ipv6: None,
    }
}

fn args(words: &str) -> Result<Box<super::RunArgs>, String> {
    let words = ["lb-agent", "run"]
        .into_iter()
        .chain(words.split(' ').filter(|w| !w.is_empty()));
    match Cli::try_parse_from(words)
        .map_err(|error| first_line(&error))?
        .command
    {
        Command::Run(args) => Ok(args),
        Command::Cleanup(_) | Command::Preflight(_) => unreachable!("run was asked for"),
    }
}

fn parse(words: &str) -> Result<Resolved, String> {
    let args = args(words)?;
    resolve(&args, &host())
}

/// With a file of that text.
fn parse_file(words: &str, text: &str) -> Result<Resolved, String> {
    let mut args = args(words)?;
    args.node.config = Some("/c".into());
    let file: File = file::parse("/c", text).map_err(|reason| format!("--config /c: {reason}"))?;
    resolve_with(&args.node, Task::Run, file, &host())
}

fn first_line(error: &clap::Error) -> String {
    let text = error.to_string();
    text.lines().next().unwrap_or_default().to_owned()
}

fn shown(resolved: &Resolved) -> String {
    let Resolved {
        options,
        task,
        warnings,
        verbosity,
        file,
    } = resolved;
    let config_file = file.as_ref().map(|(path, _)| path);
    let Options {
        source,
        node_name,
        bind_address,
        selection:
            Selection {
                external,
                pods,
                bridge,
                xdp,
            },
        inside,
        masquerade_all,
        external_ips,
        bpffs,
        cluster_ranges,
        node_ports,
        node_port_addresses,
        strict_source_ranges,
        algorithm,
        maglev_table_size,
        lifetimes,
        tc_attach,
        sockets,
        state_dir,
        proxy,
        own: _,
    } = options;
    let pods: Vec<_> = pods.iter().map(Pattern::as_str).collect();
    let mut text = format!(
        "{task:?}: {source}, state {state_dir:?}, bpffs {bpffs:?}, file {config_file:?}, \
         verbosity {verbosity}\n\
         node {node_name}, address {bind_address:?}\n\
         external {external:?}, pods {pods:?}, bridge {bridge:?}, XDP {xdp:?}, tc {tc_attach:?}\n\
         inside {inside:?}, masquerade all {masquerade_all}, external IPs {external_ips}\n\
         cluster IPs {cluster_ranges:?}\nnode ports {node_ports:?} on {node_port_addresses:?}, \
         strict ranges {strict_source_ranges}\n{algorithm:?}, tables of {maglev_table_size}\n\
         {lifetimes}\n{sockets:?}\n\
         health on {:?}, metrics on {:?}, OOM score {}\n{:?}\n",
        proxy.healthz_bind_address,
        proxy.metrics_bind_address,
        proxy.oom_score_adj,
        proxy.conntrack,
    );
    for line in warnings {
        writeln!(text, "warning: {line}").unwrap();
    }
    text
}

/// Each row and what becomes of it, to be looked at whole.
fn outcomes(rows: &[&str], parse: impl Fn(&str) -> Result<Resolved, String>) -> String {
    let mut text = String::new();
    for row in rows {
        let outcome = match parse(row) {
            Ok(resolved) => format!("accepted, {} warnings", resolved.warnings.len()),
            Err(reason) => reason.replace('\n', "\n    "),
        };
        writeln!(text, "{row}\n    {outcome}").unwrap();
    }
    text
}

#[test]
fn one_option_is_enough() {
    insta::assert_snapshot!(shown(&parse("--manifests /m").unwrap()));
}

#[test]
fn lists_are_repeated_or_separated_with_commas() {
    let resolved = parse(
        "--manifests /m --node-name Node-A --external-interface eth0,eth1 \
         --external-interface eth0 --external-interface bond0 \
         --pod-interface veth*,cali* --pod-interface lxc? --bpffs /b --state-dir /s \
         --cluster-cidr 10.1.0.0/16,fd00:1::/48 \
         --service-cluster-ip-range 10.96.0.0/16 --service-cluster-ip-range fd00:96::/112 \
         --service-node-port-range 20000+1000 --nodeport-addresses 192.0.2.0/24,2001:db8::1 \
         --socket-lb off --cgroup /c --localhost-nodeports false --strict-source-ranges \
         --algorithm maglev --maglev-table-size 65521 \
         --flow-timeout tcp-established=2h,udp-opening=90s --flow-timeout sctp-reset=1s",
    );
    insta::assert_snapshot!(shown(&resolved.unwrap()));
}

#[test]
fn k04_kube_proxys_flags_are_taken() {
    let resolved = parse(
        "--manifests /m --hostname-override=Node-B --bind-address=192.0.2.7 --v=2 \
         --healthz-bind-address=127.0.0.1 --metrics-bind-address=0.0.0.0:9000 \
         --bind-address-hard-fail --masquerade-all=true --proxy-mode=iptables \
         --iptables-masquerade-bit=15 --iptables-sync-period=1m --iptables-min-sync-period 10s \
         --iptables-localhost-nodeports=false --ipvs-scheduler=wrr --ipvs-strict-arp \
         --ipvs-exclude-cidrs=10.0.0.0/8,172.16.0.0/12 --kube-api-qps 50 --kube-api-burst=100 \
         --kube-api-content-type=application/json --config-sync-period=10m --profiling \
         --feature-gates=AllowServiceExternalIPs=false,SomethingElse=true \
         --conntrack-max-per-core=0 --conntrack-min 7 --conntrack-tcp-timeout-established=5m \
         --conntrack-tcp-timeout-close-wait=30s --conntrack-tcp-be-liberal \
         --conntrack-udp-timeout=1m --conntrack-udp-timeout-stream=2m --oom-score-adj -998 \
         --nodeport-addresses=192.0.2.0/24,2001:db8::/64 --logging-format=json \
         --show-hidden-metrics-for-version=1.35 --detect-local-mode=InterfaceNamePrefix \
         --pod-interface-name-prefix=ve[th",
    );
    insta::assert_snapshot!(shown(&resolved.unwrap()));
}

#[test]
fn k04_ports_replace_those_of_addresses() {
    let rows = [
        ("", "0.0.0.0:10256 127.0.0.1:10249"),
        ("--healthz-port 1 --metrics-port 2", "0.0.0.0:1 127.0.0.1:2"),
        ("--healthz-port 0 --metrics-port=0", " "),
        ("--healthz-bind-address= --metrics-bind-address=", " "),
        (
            "--healthz-bind-address :: --metrics-bind-address [::1]:7",
            "[::]:10256 [::1]:7",
        ),
    ];
    for (flags, expected) in rows {
        let proxy = parse(&format!("{LEAST} {flags}")).unwrap().options.proxy;
        let shown = format!(
            "{} {}",
            proxy.healthz_bind_address, proxy.metrics_bind_address
        );
        assert_eq!(shown, expected, "{flags}");
    }
}

#[test]
fn k03_wrong_values_are_refused_by_the_flags_name() {
    let rows = [
        "--node-name node_a",
        "--hostname-override=node_a",
        "--external-interface eth/0",
        "--external-interface a-very-long-interface",
        "--external-interface ,",
        "--external-interface auto,eth0",
        "--pod-interface veth[",
        "--cluster-cidr 10.0.0.0/33",
        "--cluster-cidr 10.0.0.0/8,172.16.0.0/12",
        "--cluster-cidr 10.0.0.0/8,fd00::/8,fd01::/16",
        "--service-cluster-ip-range 10.96.0.0",
        "--service-cluster-ip-range fd00:1::/64,fd00:2::/64",
        "--service-cluster-ip-range 10.1.0.0/16 --cluster-cidr 10.0.0.0/8",
        "--service-node-port-range 32767-30000",
        "--service-node-port-range 0-100",
        "--service-node-port-range 65000+1000",
        "--service-node-port-range many",
        "--nodeport-addresses nearby",
        "--socket-lb some",
        "--algorithm fair",
        "--maglev-table-size 1000",
        "--maglev-table-size many",
        "--flow-timeout tcp-established",
        "--flow-timeout tcp-open=1s",
        "--flow-timeout udp-closed=1s",
        "--flow-timeout udp-opening=soon",
        "--flow-timeout udp-opening=0",
        "--flow-timeout udp-opening=-5s",
        "--flow-timeout tcp-established=100000h",
        "--localhost-nodeports=perhaps",
        "--log-level loud",
        "-v=loud",
        "--kubeconfig /k",
        "--master https://192.0.2.1",
        "--master 192.0.2.1",
        "--bind-address nowhere",
        "--healthz-bind-address 0.0.0.0:0",
        "--metrics-bind-address localhost:10249",
        "--metrics-port 70000",
        "--proxy-mode userspace",
        "--detect-local-mode Guess",
        "--detect-local-mode BridgeInterface",
        "--detect-local-mode InterfaceNamePrefix",
        "--detect-local-mode InterfaceNamePrefix --pod-interface-name-prefix v --pod-interface x*",
        "--oom-score-adj 1001",
        "--oom-score-adj low",
        "--conntrack-min -1",
        "--conntrack-max-per-core=-5",
        "--conntrack-udp-timeout=-1s",
        "--conntrack-tcp-timeout-established=1day",
        "--config-sync-period 0",
        "--iptables-masquerade-bit 32",
        "--iptables-sync-period 0s",
        "--iptables-min-sync-period 1m",
        "--masquerade-all=maybe",
        "--feature-gates=Some",
        "--kube-api-qps fast",
        "--kube-api-burst -1",
        "--cleanup --init-only",
    ];
    let outcomes = outcomes(&rows, |row| parse(&complete(row)));
    insta::assert_snapshot!(outcomes);
}

#[test]
fn k11_k12_what_a_host_without_ipv6_cannot_do_is_refused() {
    let rows = [
        "--cluster-cidr fd00:1::/48",
        "--cluster-cidr 10.1.0.0/16,fd00:1::/48",
        "--cluster-cidr fd00:1::/48 --detect-local-mode NodeCIDR",
        "--cluster-cidr fd00:1::/48 --cleanup",
        "--cluster-cidr fd00:1::/48 --init-only",
        "--bind-address 2001:db8::1",
        "--bind-address ::",
    ];
    let host = Host {
        without_ipv6: Some("there is none here"),
        ..host()
    };
    let outcomes = outcomes(&rows, |row| {
        let args = args(&complete(row))?;
        resolve(&args, &host)
    });
    insta::assert_snapshot!(outcomes);
}

/// What was not given, as in [`LEAST`].
fn complete(args: &str) -> String {
    let least = ["--manifests /m", "--node-name node-a"];
    let given = |arg: &&str| {
        let flag = arg.split(' ').next().unwrap_or_default();
        args.contains(flag) || (flag == "--node-name" && args.contains("--hostname-override"))
    };
    let missing = least.into_iter().filter(|arg| !given(arg));
    missing.chain([args]).collect::<Vec<_>>().join(" ")
}

#[test]
fn k07_the_node_is_named_by_the_nearest() {
    let named = |flags: &str, env: Option<&str>| {
        let host = Host {
            node_name: env.map(str::to_owned),
            ..host()
        };
        let args = args(&format!("--manifests /m {flags}")).unwrap();
        resolve(&args, &host).unwrap().options.node_name
    };
    assert_eq!(named("--node-name A --hostname-override b", Some("c")), "a");
    assert_eq!(named("--hostname-override B", Some("c")), "b");
    assert_eq!(named("", Some("C")), "c");
    assert_eq!(named("", Some("")), "host-1");
    assert_eq!(named("", None), "host-1");
}

#[test]
fn d10_who_is_inside_is_told_as_kube_proxy_does() {
    let rows = [
        "",
        "--cluster-cidr 10.0.0.0/8",
        "--detect-local-mode ClusterCIDR",
        "--detect-local-mode ClusterCIDR --cluster-cidr 10.0.0.0/8,fd00::/8",
        "--detect-local-mode NodeCIDR --cluster-cidr 10.0.0.0/8",
        "--detect-local-mode BridgeInterface --pod-bridge-interface cni0",
        "--detect-local-mode InterfaceNamePrefix --pod-interface-name-prefix cali*",
    ];
    let mut text = String::new();
    for row in rows {
        let options = parse(&format!("{LEAST} {row}")).unwrap().options;
        let Selection { pods, bridge, .. } = &options.selection;
        let pods: Vec<_> = pods.iter().map(Pattern::as_str).collect();
        let inside = &options.inside;
        writeln!(
            text,
            "{row}\n    {inside:?}, pods {pods:?}, bridge {bridge:?}"
        )
        .unwrap();
    }
    insta::assert_snapshot!(text);
}

#[test]
fn what_is_missing_is_named() {
    insta::assert_snapshot!(parse("--node-name a").unwrap_err(), @"this is no Pod with a service account, so --kubeconfig FILE or --manifests DIR has to say where objects come from");
    for alone in ["--cleanup", "--init-only", "--write-config-to /w"] {
        assert!(parse(alone).is_ok(), "{alone} takes no objects");
    }
    let missing = args("--manifests /m --config /does/not/exist").unwrap();
    assert_eq!(missing.node.config, Some(PathBuf::from("/does/not/exist")));
    insta::assert_snapshot!(resolve(&missing, &host()).unwrap_err(), @"--config /does/not/exist: cannot read it: No such file or directory (os error 2)");
    let empty = parse_file("--manifests /m", "# nothing\n").unwrap_err();
    insta::assert_snapshot!(empty, @"--config /c: there is neither a KubeProxyConfiguration nor a FairleadConfiguration in it");
}

#[test]
fn the_command_line_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn help_shows_everything() {
    let command = Cli::command().term_width(100);
    let help = command.try_get_matches_from(["lb-agent", "run", "--help"]);
    insta::assert_snapshot!(help.unwrap_err());
}

#[test]
fn verbosity_only_adds() {
    let level = |args: &str, configured| {
        let args = format!("lb-agent cleanup {args}");
        let cli = Cli::try_parse_from(args.split_whitespace()).unwrap();
        cli.log_level(configured)
    };
    let rows = [
        ("", 0, Level::Info),
        ("", 4, Level::Debug),
        ("-v", 0, Level::Debug),
        ("-v=2", 9, Level::Info),
        ("--v=4", 0, Level::Debug),
        ("-vv --log-level warn", 0, Level::Trace),
        ("-v=10", 0, Level::Trace),
        ("--log-level error", 0, Level::Error),
    ];
    for (args, configured, expected) in rows {
        assert_eq!(level(args, configured), expected, "{args}");
    }
}
