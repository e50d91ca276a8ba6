//! What the kernel can do, as `lbctl status` shows it.

use super::output::{Detail, printable, table};
use crate::status::{FeatureState, KernelFeature, Status, TcWay};

/// The features that the kernel lacks, with what is done instead; in full, those it has too.
pub(super) fn feature_lines(agent: &Status, detail: Detail) -> Option<Vec<String>> {
    let shown = |feature: &&KernelFeature| match detail {
        Detail::Brief => feature.state != FeatureState::Has,
        Detail::Full => true,
    };
    let rows: Vec<_> = agent.kernel.iter().filter(shown).map(row).collect();
    (!rows.is_empty()).then(|| table(&["KERNEL FEATURE", "STATE", "WITHOUT IT"], rows))
}

fn row(feature: &KernelFeature) -> Vec<String> {
    let KernelFeature {
        feature,
        state,
        error,
        without,
    } = feature;
    let state = match (state, error) {
        (FeatureState::Has, _) => "has".to_owned(),
        (FeatureState::Lacks, _) => "lacks".to_owned(),
        (FeatureState::Unknown, Some(error)) => format!("unknown: {}", printable(error)),
        (FeatureState::Unknown, None) => "unknown".to_owned(),
    };
    let without = without.as_deref().map_or("-".to_owned(), printable);
    vec![printable(feature), state, without]
}

/// By what programs of tc are attached, where it is not the usual way.
pub(super) fn unusual_tc(agent: &Status) -> Option<String> {
    match agent.tc_attach {
        TcWay::Tcx => None,
        TcWay::Clsact => Some("by filters of the clsact qdisc".to_owned()),
    }
}
