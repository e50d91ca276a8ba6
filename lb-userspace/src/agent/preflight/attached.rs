//! Programs of others on the interfaces that the agent would attach to.

use std::{collections::BTreeMap, fmt};

use aya::programs::{ProgramInfo, SchedClassifier, TcAttachType, loaded_programs};
use futures_util::TryStreamExt as _;
use lb_common::maps::programs::{
    TC_EXTERNAL_EGRESS, TC_EXTERNAL_INGRESS, TC_POD_EGRESS, TC_POD_INGRESS, XDP_EXTERNAL,
};
use rtnetlink::{
    Handle,
    packet_route::{
        link::{LinkAttribute, LinkXdp},
        tc::{TcAttribute, TcFilterBpfOption, TcOption},
    },
};

use super::{finding::NodeFinding, links::Sorted, names_of};
use crate::agent::filters::{self, Filters, Qdiscs};

/// The qdisc that has filters for both directions.
const CLSACT: &str = "clsact";

/// Pod interfaces that are looked at; what is on one is on all, and there may be hundreds.
const PODS: usize = 4;

/// The XDP program of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct XdpProgram {
    /// The kernel's number of it.
    pub(super) id: u32,
    /// Its name, if this process may ask.
    pub(super) name: Option<String>,
    /// Whether it is Fairlead's, by its name.
    pub(super) ours: bool,
}

impl fmt::Display for XdpProgram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name.as_deref().unwrap_or("name hidden");
        write!(f, "{name} ({})", self.id)
    }
}

/// Programs of tc on an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct TcPrograms {
    /// Names of those that are not Fairlead's, with their hook, as `ingress NAME`.
    pub(super) foreign: Vec<String>,
}

/// Facts about programs, by index of the interface.
#[derive(Clone, Debug, Default)]
pub(super) struct AttachedFacts {
    /// Programs of XDP.
    pub(super) xdp: BTreeMap<u32, XdpProgram>,
    /// Programs of tc.
    pub(super) tc: BTreeMap<u32, TcPrograms>,
    /// Kinds of the qdiscs that can have filters.
    pub(super) qdiscs: Qdiscs,
}

/// Asks the kernel. What it does not tell is left out.
pub(super) async fn read(handle: &Handle, interfaces: &[u32]) -> AttachedFacts {
    let mut facts = AttachedFacts {
        xdp: xdp(handle).await.unwrap_or_default(),
        qdiscs: Filters::open()
            .and_then(|mut filters| filters.qdiscs())
            .unwrap_or_default(),
        ..AttachedFacts::default()
    };
    for index in interfaces {
        let mut foreign = Vec::new();
        for (hook, kind) in [
            ("ingress", TcAttachType::Ingress),
            ("egress", TcAttachType::Egress),
        ] {
            let links = SchedClassifier::query_tcx(*index, kind).map(|(_, programs)| programs);
            let links = links.unwrap_or_default();
            let filters = filters_of(handle, *index, kind).await.unwrap_or_default();
            let names = links.iter().map(name_of).chain(filters);
            foreign.extend(
                names
                    .filter(|name| !is_ours(name))
                    .map(|name| format!("{hook} {name}")),
            );
        }
        if !foreign.is_empty() {
            facts.tc.insert(*index, TcPrograms { foreign });
        }
    }
    facts
}

/// Indices of the interfaces that are worth asking about.
pub(super) fn interfaces(sorted: &Sorted) -> Vec<u32> {
    let uplinks = sorted.uplinks().map(|(link, _)| link.index);
    let pods = sorted.pods().map(|link| link.index).take(PODS);
    uplinks.chain(pods).collect()
}

async fn xdp(handle: &Handle) -> Result<BTreeMap<u32, XdpProgram>, rtnetlink::Error> {
    let links = handle.link().get().execute();
    let mut links = std::pin::pin!(links);
    let mut programs = BTreeMap::new();
    while let Some(link) = links.try_next().await? {
        let attributes = link.attributes.iter();
        let id = attributes.flat_map(program_ids).find(|id| *id != 0);
        if let Some(id) = id {
            programs.insert(link.header.index, id);
        }
    }
    let names = program_names(&programs);
    let programs = programs.into_iter().map(|(index, id)| {
        let name = names.get(&id).cloned();
        let ours = name.as_deref() == Some(XDP_EXTERNAL);
        (index, XdpProgram { id, name, ours })
    });
    Ok(programs.collect())
}

fn program_ids(attribute: &LinkAttribute) -> Vec<u32> {
    let LinkAttribute::Xdp(parts) = attribute else {
        return Vec::new();
    };
    let ids = parts.iter().filter_map(|part| match part {
        LinkXdp::ProgId(id)
        | LinkXdp::DrvProgId(id)
        | LinkXdp::SkbProgId(id)
        | LinkXdp::HwProgId(id) => Some(*id),
        _ => None,
    });
    ids.collect()
}

/// Names of loaded programs by number, if any is asked for and this process may ask.
fn program_names(wanted: &BTreeMap<u32, u32>) -> BTreeMap<u32, String> {
    if wanted.is_empty() {
        return BTreeMap::new();
    }
    let programs = loaded_programs().map_while(Result::ok);
    programs.map(|info| (info.id(), name_of(&info))).collect()
}

fn name_of(info: &ProgramInfo) -> String {
    String::from_utf8_lossy(info.name()).into_owned()
}

/// Names of BPF filters on the classic hook of tc.
async fn filters_of(
    handle: &Handle,
    index: u32,
    kind: TcAttachType,
) -> Result<Vec<String>, rtnetlink::Error> {
    let request = handle.traffic_filter(index.cast_signed()).get();
    let request = match kind {
        TcAttachType::Ingress => request.ingress(),
        TcAttachType::Egress => request.egress(),
    };
    let filters = request.execute();
    let mut filters = std::pin::pin!(filters);
    let mut names = Vec::new();
    while let Some(filter) = filters.try_next().await? {
        names.extend(filter.attributes.iter().flat_map(filter_names));
    }
    Ok(names)
}

fn filter_names(attribute: &TcAttribute) -> Vec<String> {
    let TcAttribute::Options(options) = attribute else {
        return Vec::new();
    };
    let names = options.iter().filter_map(|option| match option {
        TcOption::Bpf(TcFilterBpfOption::ProgName(name)) => Some(name.clone()),
        _ => None,
    });
    names.collect()
}

fn is_ours(name: &str) -> bool {
    [
        TC_EXTERNAL_INGRESS,
        TC_EXTERNAL_EGRESS,
        TC_POD_INGRESS,
        TC_POD_EGRESS,
    ]
    .contains(&name)
        || name.starts_with(filters::NAME)
}

/// What programs of tc mean, and what takes their place. Those of XDP are part of the check `xdp`.
pub(super) fn check(facts: &AttachedFacts, sorted: &Sorted, has_tcx: bool) -> Vec<NodeFinding> {
    let links = || sorted.wanted.iter().map(|(link, _)| *link);
    let programs = links().filter_map(|link| {
        let programs = &facts.tc.get(&link.index)?.foreign;
        let names = names_of(programs.iter().map(String::as_str))?;
        let finding = NodeFinding::warning(
            "tc-programs",
            format!("programs of others: {names}"),
            "they see the same packets, and may drop them or translate them themselves",
            "find out whose they are (bpftool net); the CNI's are fine if it leaves services alone",
        );
        Some(finding.on(&link.name))
    });
    let occupied = links().filter_map(|link| {
        let kind = facts.qdiscs.get(&link.index)?;
        let finding = NodeFinding::failure(
            "qdisc",
            format!("an {kind} qdisc is in the place of clsact"),
            "without tcx links the kernel needs clsact, so packets of this interface are not seen",
            format!(
                "tc qdisc del dev {} {kind}, or have whoever made it use clsact",
                link.name
            ),
        );
        (!has_tcx && kind != CLSACT).then(|| finding.on(&link.name))
    });
    programs.chain(occupied).collect()
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            finding::FindingState,
            recorded::{link, table},
        },
        *,
    };
    use crate::agent::interface::{External, Selection};

    #[test]
    fn programs_of_others_are_named_by_their_hook() {
        let selection = Selection {
            external: External::Named(vec!["eth0".into()]),
            ..Selection::default()
        };
        let table = table(vec![link(2, "eth0")], &[], &[2]);
        let sorted = Sorted::new(&selection, &table, &[]);
        assert_eq!(check(&AttachedFacts::default(), &sorted, true), []);
        let foreign = vec!["ingress cil_from_netdev".to_owned()];
        let facts = AttachedFacts {
            tc: [(2, TcPrograms { foreign })].into(),
            ..AttachedFacts::default()
        };
        let findings = check(&facts, &sorted, true);
        assert_eq!(findings[0].state, FindingState::Warning);
        assert_eq!(
            findings[0].found,
            "programs of others: ingress cil_from_netdev"
        );
    }

    #[test]
    fn our_own_programs_are_known_by_name() {
        assert!(is_ours("tc_ext_in") && is_ours("fairlead/tc_ext_in"));
        assert!(!is_ours("tc_ext_in_full"));
    }

    #[test]
    fn a_qdisc_in_the_place_of_clsact_matters_without_tcx_links() {
        let selection = Selection {
            external: External::Named(vec!["eth0".into()]),
            ..Selection::default()
        };
        let table = table(vec![link(2, "eth0")], &[], &[2]);
        let sorted = Sorted::new(&selection, &table, &[]);
        let states = |kind: &str, has_tcx| {
            let facts = AttachedFacts {
                qdiscs: [(2, kind.to_owned())].into(),
                ..AttachedFacts::default()
            };
            let findings = check(&facts, &sorted, has_tcx);
            findings.iter().map(|it| it.state).collect::<Vec<_>>()
        };
        assert_eq!(states("ingress", false), [FindingState::Failure]);
        assert_eq!(states("ingress", true), []);
        assert_eq!(states("clsact", false), []);
    }

    #[test]
    fn all_numbers_of_a_links_programs_are_read() {
        let attribute = LinkAttribute::Xdp(vec![LinkXdp::ProgId(0), LinkXdp::SkbProgId(7)]);
        assert_eq!(program_ids(&attribute), [0, 7]);
        assert_eq!(program_ids(&LinkAttribute::Mtu(1500)), [0; 0]);
    }
}
