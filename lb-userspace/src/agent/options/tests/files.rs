//! Files of `--config`.

use super::*;

const HEADER: &str = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";

#[test]
fn k03_wrong_values_are_refused_by_the_fields_path() {
    let rows = [
        "conntrack: {min: -1, maxPerCore: -1, udpTimeout: -5s}",
        "conntrack: {min: many}",
        "conntrack: {tcpEstablishedTimeout: 5}",
        "conntrac: {min: 1}",
        "conntrack: {minimum: 1}",
        "iptables: {masqueradeBit: 32, syncPeriod: 1s, minSyncPeriod: 1m}",
        "nftables: {masqueradeBit: 32, syncPeriod: 1s, minSyncPeriod: 1m}",
        "{mode: nftables, nftables: {masqueradeBit: 32, syncPeriod: 1s, minSyncPeriod: 1m}}",
        "{mode: ipvs, ipvs: {tcpTimeout: -1s, excludeCIDRs: [10.0.0.0/8, x]}}",
        "mode: kernelspace",
        "oomScoreAdj: 2000",
        "configSyncPeriod: -1s",
        "bindAddress: all",
        "{healthzBindAddress: here, metricsBindAddress: '127.0.0.1:0'}",
        "clusterCIDR: 10.0.0.0/8,11.0.0.0/8",
        "clusterCIDR: 10.0.0.0",
        "{detectLocalMode: NodeCIDR, clusterCIDR: anything}",
        "detectLocalMode: BridgeInterface",
        "nodePortAddresses: [192.0.2.0/24, here]",
        "nodePortAddresses: primary",
        "hostnameOverride: a_b",
        "featureGates: {A: 1}",
        "clientConnection: {burst: -1}",
        "{mode: iptables, mode: ipvs}",
        "kind: Pod",
        "[]",
        "{",
    ];
    let outcomes = outcomes(&rows, |row| {
        let text = match row.strip_prefix('{').and_then(|row| row.strip_suffix('}')) {
            Some(fields) => format!("{HEADER}{}", split(fields)),
            None => format!("{HEADER}{row}"),
        };
        parse_file("--manifests /m", &text)
    });
    insta::assert_snapshot!(outcomes);
}

/// Fields in a row to fields below one another.
fn split(fields: &str) -> String {
    let mut depth = 0;
    fields
        .chars()
        .map(|c| {
            depth += i32::from("{[".contains(c)) - i32::from("}]".contains(c));
            if c == ',' && depth == 0 { '\n' } else { c }
        })
        .collect::<String>()
        .replace("\n ", "\n")
}

/// Configurations as tools and people write them.
#[test]
fn k01_real_configurations_are_taken() {
    let texts = [
        ("kubeadm", include_str!("../testdata/kubeadm.conf")),
        ("kind", include_str!("../testdata/kind.conf")),
        ("eks", include_str!("../testdata/eks.conf")),
        ("ipvs", include_str!("../testdata/ipvs.conf")),
        ("json", include_str!("../testdata/json.conf")),
    ];
    for (name, text) in texts {
        let resolved = parse_file("--manifests /m", text).unwrap();
        insta::assert_snapshot!(name, shown(&resolved));
    }
}

/// What kube-proxy reads by its lenient decoder, and warns of.
#[test]
fn k01_unknown_fields_are_named() {
    let text = format!(
        "{HEADER}conntrac: {{min: 1}}\nconntrack: {{min: 7, minimum: 1}}\nvnext: true\n\
         logging: {{vmodule: [{{filePattern: a, verbosity: 1, color: red}}]}}\n"
    );
    insta::assert_snapshot!(shown(&parse_file("--manifests /m", &text).unwrap()));
}

#[test]
fn k01_flags_that_a_file_overrules_are_named() {
    let text = format!("{HEADER}hostnameOverride: from-file\nbindAddress: '::'\n");
    let flags = "--manifests /m --hostname-override from-flag --masquerade-all --cluster-cidr \
                 10.0.0.0/8 --kubeconfig /k --v=6 --xdp off";
    insta::assert_snapshot!(shown(&parse_file(flags, &text).unwrap()));
}

#[test]
fn our_own_document_stands_beside_kube_proxys_or_alone() {
    let own = "apiVersion: config.fairlead.dev/v1alpha1\nkind: FairleadConfiguration\n\
               manifests: /m\nnodeName: node-c\nexternalInterfaces: [eth7]\npodInterfaces: [a*, b]\n\
               xdp: always\ntcAttach: clsact\nbpffs: /b\nserviceClusterIPRanges: [10.96.0.0/16]\n\
               serviceNodePortRange: 1000-2000\nstateDir: /s\nsocketLb: 'off'\ncgroup: /c\n\
               localhostNodePorts: false\nstrictSourceRanges: true\n";
    let both = format!("{HEADER}clusterCIDR: 10.0.0.0/12\n---\n{own}");
    let flags = "--external-interface eth1 --cluster-cidr 10.64.0.0/12";
    insta::assert_snapshot!(
        [parse_file(flags, own), parse_file(flags, &both),]
            .map(|resolved| shown(&resolved.unwrap()))
            .join("\n")
    );
}

#[test]
fn our_own_fields_are_refused_by_their_path() {
    let rows = [
        "nodeName: a_b",
        "externalInterfaces: eth0",
        "externalInterfaces: [eth/0]",
        "xdp: sometimes",
        "tcAttach: netlink",
        "serviceClusterIPRanges: [x]",
        "serviceNodePortRange: 1",
        "serviceNodePortRange: 5-4",
        "unknown: 1",
    ];
    let outcomes = outcomes(&rows, |row| {
        let header = "apiVersion: config.fairlead.dev/v1alpha1\nkind: FairleadConfiguration\n";
        parse_file("--manifests /m", &format!("{header}{row}"))
    });
    insta::assert_snapshot!(outcomes);
}

#[test]
fn what_is_written_is_read_again_as_it_was() {
    let flags = "--manifests /m --node-name a --external-interface eth0 --xdp off --masquerade-all \
                 --conntrack-min 5 --proxy-mode nftables --feature-gates A=true --v=3";
    let first = parse(flags).unwrap().options;
    let text = first.to_file().unwrap();
    insta::assert_snapshot!(text);
    let second = parse_file("", &text).unwrap().options;
    assert_eq!(second.configz(), first.configz());
    assert_eq!(second.to_file().unwrap(), text);
}
