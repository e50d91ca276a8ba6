//! By what programs of tc are put on interfaces.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::probe::{Feature, Features};
use crate::status::TcWay;

/// What is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum TcAttach {
    /// By tcx links where the kernel has them, else by filters of the clsact qdisc.
    #[default]
    Auto,
    /// By tcx links (Linux 6.6).
    Tcx,
    /// By filters of the clsact qdisc. What the other way had attached is taken off.
    Clsact,
}

/// Links are wanted, and the kernel has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "--tc-attach tcx: the kernel has no tcx links; --tc-attach auto attaches by filters of the clsact \
     qdisc instead"
)]
pub(super) struct NoTcx;

/// What is to be used on this kernel.
pub(super) fn choose(wanted: TcAttach, features: &Features) -> Result<TcWay, NoTcx> {
    match (wanted, features.has(Feature::Tcx)) {
        (TcAttach::Auto | TcAttach::Tcx, true) => Ok(TcWay::Tcx),
        (TcAttach::Clsact, _) | (TcAttach::Auto, false) => Ok(TcWay::Clsact),
        (TcAttach::Tcx, false) => Err(NoTcx),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::probe::State;

    #[test]
    fn filters_are_used_where_there_are_no_links_or_when_told_so() {
        let kernel = |tcx: State| {
            Features::by(move |feature| match feature {
                Feature::Tcx => tcx.clone(),
                Feature::Jit
                | Feature::RedirectNeigh
                | Feature::FibSource
                | Feature::Retval
                | Feature::NetnsCookie
                | Feature::TrieBatch => State::Has,
            })
        };
        let (new, old) = (kernel(State::Has), kernel(State::Lacks));
        let unknown = kernel(State::Unknown("EPERM".to_owned()));
        for (wanted, features, way) in [
            (TcAttach::Auto, &new, Ok(TcWay::Tcx)),
            (TcAttach::Auto, &old, Ok(TcWay::Clsact)),
            (TcAttach::Auto, &unknown, Ok(TcWay::Clsact)),
            (TcAttach::Tcx, &new, Ok(TcWay::Tcx)),
            (TcAttach::Tcx, &old, Err(NoTcx)),
            (TcAttach::Clsact, &new, Ok(TcWay::Clsact)),
            (TcAttach::Clsact, &old, Ok(TcWay::Clsact)),
        ] {
            assert_eq!(choose(wanted, features), way, "{wanted:?}");
        }
    }
}
