//! From what was given to what is in force.

use std::path::{Path, PathBuf};

use glob::Pattern;
use ipnet::IpNet;
use serde_json::Value;

use super::{
    BPFFS, Inside, Options, STATE,
    cli::{NodeArgs, RunArgs},
    duration::Span,
    file::{self, File},
    flags::ProxyFlags,
    inapplicable,
    kube_proxy::KubeProxy,
    names::Names,
    own::Own,
    validate::{
        self, BRIDGE_INTERFACE, CLUSTER_CIDR, INTERFACE_NAME_PREFIX, NODE_CIDR, cluster_networks,
    },
};
use crate::{
    agent::{
        families,
        interface::{External, Selection},
        socket_options::SocketOptions,
        source::Source,
        upkeep::{Lifetime, Lifetimes},
        values::{self, NodeName},
    },
    source::{kubernetes::Access, manifests::strict},
};

/// What there is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::agent) enum Task {
    /// Serve until told to stop.
    Run,
    /// Only what needs root.
    Init,
    /// Take all away.
    Cleanup,
    /// Write the configuration to this file.
    WriteConfig(PathBuf),
}

/// Options and what to say of them.
#[derive(Clone, Debug)]
pub(in crate::agent) struct Resolved {
    pub(in crate::agent) options: Options,
    pub(in crate::agent) task: Task,
    /// What was given and does not count, a line each.
    pub(in crate::agent) warnings: Vec<String>,
    /// `logging.verbosity`
    pub(in crate::agent) verbosity: u32,
    /// The file of `--config`, and what it said.
    pub(in crate::agent) file: Option<(PathBuf, String)>,
}

/// What the host says of itself.
#[derive(Clone, Debug, Default)]
pub(in crate::agent) struct Host {
    /// `$NODE_NAME`
    pub(in crate::agent) node_name: Option<String>,
    /// Its own name.
    pub(in crate::agent) name: String,
    /// Whether there is a service account, as in a Pod.
    pub(in crate::agent) service_account: bool,
    /// Why it has no IPv6; none if it has.
    pub(in crate::agent) without_ipv6: Option<&'static str>,
}

impl Host {
    /// This one.
    pub(in crate::agent) fn this() -> Self {
        Self {
            node_name: std::env::var("NODE_NAME").ok(),
            name: values::host_name(),
            service_account: Access::in_pod(),
            without_ipv6: families::without_ipv6(Path::new("/")),
        }
    }
}

/// Puts flags and files together. An error names the option or field at fault.
pub(in crate::agent) fn resolve(args: &RunArgs, host: &Host) -> Result<Resolved, String> {
    resolve_task(&args.node, task(args)?, host)
}

/// [`resolve`] for `preflight`. Like `--init-only` it needs no source of objects.
pub(in crate::agent) fn resolve_preflight(
    args: &NodeArgs,
    host: &Host,
) -> Result<Resolved, String> {
    resolve_task(args, Task::Init, host)
}

fn resolve_task(args: &NodeArgs, task: Task, host: &Host) -> Result<Resolved, String> {
    let path = args.config.as_deref();
    let file = path.map(file::read).transpose()?.unwrap_or_default();
    resolve_with(args, task, file, host)
}

/// [`resolve`], the file having been read.
pub(super) fn resolve_with(
    args: &NodeArgs,
    task: Task,
    file: File,
    host: &Host,
) -> Result<Resolved, String> {
    let mut warnings = Vec::new();
    let proxy = proxy(args, &file, &mut warnings)?;
    let names = Names {
        file: args.config.as_deref(),
        flags: (file.kube_proxy.is_none()).then_some(&args.proxy),
        own: &args.own,
    };
    let mut faults = validate::faults(&proxy);
    if let (Task::Run | Task::Init, Some(reason)) = (&task, host.without_ipv6) {
        faults.extend(validate::faults_without_ipv6(&proxy, reason));
    }
    if !faults.is_empty() {
        let lines: Vec<_> = faults
            .into_iter()
            .map(|(field, reason)| format!("{}: {reason}", names.of(field)))
            .collect();
        return Err(lines.join("\n"));
    }
    for (field, text) in inapplicable::lines(&proxy).into_iter().chain(file.foreign) {
        warnings.push(format!("{}{text}", names.of(&field)));
    }
    let own = args.own.clone().over(file.own.unwrap_or_default());
    let options = Parts {
        args,
        task: &task,
        proxy: &proxy,
        own: &own,
        names: &names,
        host,
    }
    .options()?;
    Ok(Resolved {
        task,
        warnings,
        verbosity: proxy.logging.verbosity,
        file: args.config.clone().map(|path| (path, file.text)),
        options,
    })
}

fn task(args: &RunArgs) -> Result<Task, String> {
    match (&args.write_config_to, args.cleanup, args.init_only) {
        (Some(path), _, _) => Ok(Task::WriteConfig(path.clone())),
        (None, true, true) => Err("--cleanup and --init-only exclude each other".to_owned()),
        (None, true, false) => Ok(Task::Cleanup),
        (None, false, true) => Ok(Task::Init),
        (None, false, false) => Ok(Task::Run),
    }
}

/// kube-proxy's configuration: that of the file, else what its flags make.
fn proxy(args: &NodeArgs, file: &File, warnings: &mut Vec<String>) -> Result<KubeProxy, String> {
    let Some(mut proxy) = file.kube_proxy.clone() else {
        let given = args
            .proxy
            .configuration()
            .map_err(|(flag, reason)| format!("{flag}: {reason}"))?;
        return typed(given, &args.proxy);
    };
    if let Some(name) = args.proxy.hostname_override() {
        name.clone_into(&mut proxy.hostname_override);
    }
    let overruled = args.proxy.overruled();
    if !overruled.is_empty() {
        warnings.push(format!(
            "{} has no effect: --config names a file that says it all",
            overruled.join(", ")
        ));
    }
    Ok(proxy)
}

fn typed(given: Value, flags: &ProxyFlags) -> Result<KubeProxy, String> {
    strict(given).map_err(|error: String| match error.split_once(": ") {
        Some((field, reason)) => format!("{}: {reason}", flags.name_of(field)),
        None => error,
    })
}

/// All that options are made of.
struct Parts<'a> {
    args: &'a NodeArgs,
    task: &'a Task,
    proxy: &'a KubeProxy,
    own: &'a Own,
    names: &'a Names<'a>,
    host: &'a Host,
}

impl Parts<'_> {
    fn options(&self) -> Result<Options, String> {
        let Self { proxy, own, .. } = self;
        let NodeName(node_name) = self.node_name()?;
        let bind_address = validate::ip(&proxy.bind_address)?;
        let by_nftables = proxy.mode == "nftables";
        let gate = proxy.feature_gates.get("AllowServiceExternalIPs");
        let default_state = || PathBuf::from(STATE).join(&node_name);
        Ok(Options {
            source: self.source()?,
            bind_address: Some(bind_address).filter(|ip| !ip.is_unspecified()),
            selection: self.selection()?,
            inside: self.inside()?,
            masquerade_all: if by_nftables {
                proxy.nftables.masquerade_all
            } else {
                proxy.iptables.masquerade_all
            },
            external_ips: gate.copied().unwrap_or(true),
            bpffs: own.bpffs.clone().unwrap_or_else(|| BPFFS.into()),
            cluster_ranges: self.cluster_ranges()?,
            node_ports: self.node_ports()?,
            node_port_addresses: values::node_port_addresses(&proxy.node_port_addresses)?,
            strict_source_ranges: own.strict_source_ranges.unwrap_or(false),
            algorithm: own.algorithm.unwrap_or_default(),
            maglev_table_size: own.maglev_table_size.unwrap_or_default(),
            lifetimes: self.lifetimes()?,
            tc_attach: own.tc_attach.unwrap_or_default(),
            sockets: SocketOptions {
                socket_lb: own.socket_lb.unwrap_or_default(),
                cgroup: own.cgroup.clone(),
                localhost_nodeports: own
                    .localhost_nodeports
                    .unwrap_or(proxy.iptables.localhost_node_ports),
            },
            state_dir: own.state_dir.clone().unwrap_or_else(default_state),
            proxy: (*proxy).clone(),
            own: (*own).clone(),
            node_name,
        })
    }

    /// By `--node-name`, else kube-proxy's name for it, else as the Pod or the host has it.
    fn node_name(&self) -> Result<NodeName, String> {
        let Host {
            node_name, name, ..
        } = self.host;
        let own = self
            .names
            .own(|own| own.node_name.is_some(), "--node-name", "nodeName");
        let proxy = self.names.of("hostnameOverride");
        let overriding = Some(&self.proxy.hostname_override).filter(|name| !name.is_empty());
        let from_pod = node_name.as_ref().filter(|name| !name.is_empty());
        let (what, name) = match (&self.own.node_name, overriding, from_pod) {
            (Some(name), _, _) => (own, name),
            (None, Some(name), _) => (proxy, name),
            (None, None, Some(name)) => ("$NODE_NAME".to_owned(), name),
            (None, None, None) => ("the host's name, for want of --node-name".to_owned(), name),
        };
        let parsed = name.parse();
        parsed.map_err(|reason: String| format!("{what}: {name:?}: {reason}"))
    }

    /// `STAGE=TIME`, each of them.
    fn lifetimes(&self) -> Result<Lifetimes, String> {
        let given = |own: &Own| !own.flow_timeout.is_empty();
        let name = self.names.own(given, "--flow-timeout", "flowTimeouts");
        let told = self.own.flow_timeout.iter().map(|text| {
            let (stage, time) = text
                .split_once('=')
                .ok_or_else(|| format!("{text:?} is not STAGE=TIME, such as udp-established=5m"))?;
            Lifetime::new(stage, time.parse::<Span>()?.duration())
        });
        let told: Result<Vec<_>, String> = told.collect();
        let told = told.map_err(|reason| format!("{name}: {reason}"))?;
        Ok(Lifetimes::with(&told))
    }

    fn source(&self) -> Result<Source, String> {
        let Self {
            args, proxy, own, ..
        } = self;
        let kubeconfig = &proxy.client_connection.kubeconfig;
        let kubeconfig = (!kubeconfig.is_empty()).then(|| PathBuf::from(kubeconfig));
        match &own.manifests {
            Some(dir) if kubeconfig.is_none() && args.master.is_none() => {
                Ok(Source::Manifests(dir.clone()))
            }
            Some(_) => {
                let manifests =
                    self.names
                        .own(|own| own.manifests.is_some(), "--manifests", "manifests");
                let other = match kubeconfig {
                    Some(_) => self.names.of("clientConnection.kubeconfig"),
                    None => "--master".to_owned(),
                };
                Err(format!(
                    "{manifests} and {other}: objects come from one of them, not both"
                ))
            }
            // Nothing else takes objects, so nothing else has to be told where they are.
            None if kubeconfig.is_none() && !self.host.service_account && *self.task == Task::Run => {
                Err(
                    "this is no Pod with a service account, so --kubeconfig FILE or --manifests DIR \
                     has to say where objects come from"
                        .to_owned(),
                )
            }
            None => Ok(Source::Kubernetes(Access {
                kubeconfig,
                server: args.master.clone(),
            })),
        }
    }

    fn selection(&self) -> Result<Selection, String> {
        let Self {
            own, proxy, names, ..
        } = self;
        let local = &proxy.detect_local;
        let bridge = proxy.detect_local_mode == BRIDGE_INTERFACE;
        let mut pods = self.pod_patterns()?;
        if proxy.detect_local_mode == INTERFACE_NAME_PREFIX {
            if !own.pod_interface.is_empty() {
                let pods = self.pod_interface();
                let prefix = names.of("detectLocal.interfaceNamePrefix");
                return Err(format!("{pods} and {prefix} exclude each other"));
            }
            let prefix = Pattern::escape(&local.interface_name_prefix);
            pods = vec![values::glob(&format!("{prefix}*"))?];
        }
        Ok(Selection {
            external: self.external()?,
            pods,
            bridge: bridge.then(|| local.bridge_interface.clone()),
            xdp: own.xdp.unwrap_or_default(),
        })
    }

    fn external(&self) -> Result<External, String> {
        let name = self.names.own(
            |own| !own.external_interface.is_empty(),
            "--external-interface",
            "externalInterfaces",
        );
        match self.own.external_interface.as_slice() {
            [] => Ok(External::Auto),
            [word] if word == "auto" => Ok(External::Auto),
            list => {
                let each = list.iter().map(|text| match text.as_str() {
                    "auto" => Err("auto stands alone: give it, or names".to_owned()),
                    text => values::interface(text),
                });
                let list: Result<Vec<_>, _> = each.collect();
                list.map(|list| External::Named(values::unique(list)))
                    .map_err(|reason| format!("{name}: {reason}"))
            }
        }
    }

    fn pod_patterns(&self) -> Result<Vec<Pattern>, String> {
        let patterns = &self.own.pod_interface;
        if patterns.is_empty() {
            return Ok(vec![values::glob("*")?]);
        }
        let patterns = patterns.iter().map(|text| values::glob(text));
        let patterns: Result<_, _> = patterns.collect();
        patterns.map_err(|reason| format!("{}: {reason}", self.pod_interface()))
    }

    fn pod_interface(&self) -> String {
        let is_given = |own: &Own| !own.pod_interface.is_empty();
        self.names.own(is_given, "--pod-interface", "podInterfaces")
    }

    fn inside(&self) -> Result<Inside, String> {
        let networks = cluster_networks(&self.proxy.cluster_cidr);
        match self.proxy.detect_local_mode.as_str() {
            NODE_CIDR => Ok(Inside::NodeNetworks),
            "" | CLUSTER_CIDR if !self.proxy.cluster_cidr.is_empty() => {
                networks.map(Inside::Networks)
            }
            _ => Ok(Inside::Interfaces),
        }
    }

    fn cluster_ranges(&self) -> Result<Vec<IpNet>, String> {
        let name = self.names.own(
            |own| !own.service_cluster_ip_range.is_empty(),
            "--service-cluster-ip-range",
            "serviceClusterIPRanges",
        );
        let at = |reason: String| format!("{name}: {reason}");
        let each = self.own.service_cluster_ip_range.iter();
        let each = each
            .map(|text| values::cidr(text).map_err(|reason| at(format!("{text:?} is {reason}"))));
        let ranges: Vec<_> = each.collect::<Result<_, _>>()?;
        values::one_a_family(&ranges).map_err(at)?;
        if let Inside::Networks(pods) = self.inside()? {
            values::disjoint(&pods, &ranges).map_err(at)?;
        }
        Ok(ranges)
    }

    fn node_ports(&self) -> Result<std::ops::RangeInclusive<u16>, String> {
        let Some(text) = &self.own.service_node_port_range else {
            return Ok(30000..=32767);
        };
        let name = self.names.own(
            |own| own.service_node_port_range.is_some(),
            "--service-node-port-range",
            "serviceNodePortRange",
        );
        values::ports(text).map_err(|reason| format!("{name}: {text:?}: {reason}"))
    }
}
