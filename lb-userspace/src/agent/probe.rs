//! What this kernel can do, found out by trying it: never by its version, which says nothing of backports,
//! of the configuration, or of what a container may not do.
//!
//! A [`Feature`] that is lacked either has something that stands in for it, or is a reason not to start
//! (SEMANTICS K13). Where a trial fails in a way that says neither, what stands in is used: it works
//! everywhere.

mod trials;

use std::{collections::BTreeMap, fmt, time::Instant};

use lb_common::kernel;
use thiserror::Error;
use tracing::{debug, info, warn};

use crate::{
    bpf::trial,
    status::{FeatureState, KernelFeature},
};

/// Something the agent wants of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Feature {
    /// BPF programs are compiled to machine code.
    Jit,
    /// `bpf_redirect_neigh` (5.10)
    RedirectNeigh,
    /// BPF links on tc hooks (6.6)
    Tcx,
    /// `BPF_FIB_LOOKUP_SRC` (6.7, and 6.6.19, 6.1.81, 5.15.151)
    FibSource,
    /// `bpf_set_retval` in hooks of sockets (6.1; in other hooks 5.18)
    Retval,
    /// `SO_NETNS_COOKIE` (5.14)
    NetnsCookie,
    /// `BPF_MAP_LOOKUP_BATCH` of a trie (5.13)
    TrieBatch,
}

/// What becomes of the agent without a feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Without {
    /// It does this in its stead.
    Instead(&'static str),
    /// It ends, unless told otherwise; this is what to do.
    Refuse(&'static str),
}

/// What a trial said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// The kernel has it.
    Has,
    /// It has not.
    Lacks,
    /// The trial failed for another reason, which is this.
    Unknown(String),
}

/// A feature as people are told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Finding<'a> {
    /// Which.
    pub(crate) feature: Feature,
    /// Whether the kernel has it.
    pub(crate) state: &'a State,
    /// What follows; none if it has.
    pub(crate) without: Option<Without>,
}

/// What the kernel has of every [`Feature`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Features(BTreeMap<Feature, State>);

/// The kernel lacks what nothing stands in for.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the kernel cannot serve: {}; or try all the same by --check-kernel=false", .0.join("; "))]
pub(crate) struct Unfit(Vec<String>);

/// Tries everything. It takes milliseconds, and nothing on the node is another afterwards.
pub(crate) fn probe() -> Features {
    let begun = Instant::now();
    trial::lift_limit();
    let features = Features::by(trials::of);
    debug!("the kernel is probed in {:?}", begun.elapsed());
    features
}

impl Feature {
    /// Each, those first without which nothing goes.
    pub(crate) const ALL: [Self; 7] = [
        Self::Jit,
        Self::RedirectNeigh,
        Self::Tcx,
        Self::FibSource,
        Self::Retval,
        Self::NetnsCookie,
        Self::TrieBatch,
    ];

    /// What becomes of the agent without it.
    pub(crate) const fn without(self) -> Without {
        match self {
            Self::Jit => Without::Refuse(
                "programs that call functions and other programs do not load without it: run \
                 `sysctl -w net.core.bpf_jit_enable=1`",
            ),
            Self::RedirectNeigh => {
                Without::Refuse("programs that call it do not load: run Linux 5.10 or newer")
            }
            Self::Tcx => Without::Instead("programs are attached by filters of the clsact qdisc"),
            Self::FibSource => Without::Instead(
                "packets to backends elsewhere have the node's primary address as source, whatever the \
                 route prefers",
            ),
            Self::Retval => Without::Instead(
                "what a service refuses to a process of the node fails with EPERM, not ECONNREFUSED",
            ),
            Self::NetnsCookie => Without::Instead(
                "a BPF program on connect finds out the cookie of a network namespace",
            ),
            Self::TrieBatch => {
                Without::Instead("source ranges are read one by one, which takes longer")
            }
        }
    }
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Jit => "BPF JIT compiler",
            Self::RedirectNeigh => "bpf_redirect_neigh",
            Self::Tcx => "tcx links",
            Self::FibSource => "source address from bpf_fib_lookup",
            Self::Retval => "bpf_set_retval in socket hooks",
            Self::NetnsCookie => "SO_NETNS_COOKIE",
            Self::TrieBatch => "batches of LPM tries",
        })
    }
}

impl Features {
    /// As a trial of each says.
    pub(crate) fn by(trial: impl Fn(Feature) -> State) -> Self {
        Self(Feature::ALL.into_iter().map(|it| (it, trial(it))).collect())
    }

    /// Whether the kernel certainly has it.
    pub(crate) fn has(&self, feature: Feature) -> bool {
        self.0.get(&feature) == Some(&State::Has)
    }

    /// What the BPF object is told that the kernel lacks: bits of [`lb_common::kernel`].
    pub(crate) fn lacks(&self) -> u32 {
        let bit = |feature, bit| if self.has(feature) { 0 } else { bit };
        bit(Feature::FibSource, kernel::FIB_SOURCE) | bit(Feature::Retval, kernel::RETVAL)
    }

    /// Every feature with its state and what follows from it.
    pub(crate) fn findings(&self) -> impl Iterator<Item = Finding<'_>> {
        self.0.iter().map(|(feature, state)| Finding {
            feature: *feature,
            state,
            without: match state {
                State::Has => None,
                State::Lacks | State::Unknown(_) => Some(feature.without()),
            },
        })
    }

    /// Fails if something is lacked that nothing stands in for. What cannot be told is left to the loading
    /// of the programs, whose errors are its own.
    pub(crate) fn check(&self) -> Result<(), Unfit> {
        let lines: Vec<_> = self.findings().filter_map(refusal).collect();
        if lines.is_empty() {
            Ok(())
        } else {
            Err(Unfit(lines))
        }
    }

    /// Logs what is lacked.
    pub(crate) fn log(&self) {
        for finding in self.findings() {
            let Some(Without::Instead(instead)) = finding.without else {
                continue;
            };
            let name = finding.feature;
            match finding.state {
                State::Has => {}
                State::Lacks => info!("the kernel has no {name}: {instead}"),
                State::Unknown(error) => {
                    warn!("cannot tell whether the kernel has {name} ({error}): {instead}");
                }
            }
        }
    }

    /// For the status.
    pub(crate) fn account(&self) -> Vec<KernelFeature> {
        self.findings().map(|finding| finding.account()).collect()
    }
}

fn refusal(finding: Finding<'_>) -> Option<String> {
    match (finding.state, finding.feature.without()) {
        (State::Lacks, Without::Refuse(advice)) => {
            let lacked = match finding.feature {
                Feature::Jit => "its BPF JIT compiler is off".to_owned(),
                name => format!("it has no {name}"),
            };
            Some(format!("{lacked}, and {advice}"))
        }
        (State::Lacks, Without::Instead(_)) | (State::Has | State::Unknown(_), _) => None,
    }
}

impl Finding<'_> {
    fn account(&self) -> KernelFeature {
        let (state, error) = match self.state {
            State::Has => (FeatureState::Has, None),
            State::Lacks => (FeatureState::Lacks, None),
            State::Unknown(error) => (FeatureState::Unknown, Some(error.clone())),
        };
        KernelFeature {
            feature: self.feature.to_string(),
            state,
            error,
            without: self.without.map(|without| match without {
                Without::Instead(text) | Without::Refuse(text) => text.to_owned(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lacking(lacked: &[Feature]) -> Features {
        Features::by(|feature| {
            if lacked.contains(&feature) {
                State::Lacks
            } else {
                State::Has
            }
        })
    }

    #[test]
    fn k13_what_nothing_stands_in_for_is_named_with_what_to_do() {
        let said = |lacked: &[Feature]| lacking(lacked).check().map_err(|error| error.to_string());
        assert_eq!(said(&[]), Ok(()));
        insta::assert_snapshot!(said(&[Feature::Jit]).unwrap_err(), @"the kernel cannot serve: its BPF JIT compiler is off, and programs that call functions and other programs do not load without it: run `sysctl -w net.core.bpf_jit_enable=1`; or try all the same by --check-kernel=false");
        insta::assert_snapshot!(said(&[Feature::Jit, Feature::RedirectNeigh]).unwrap_err(), @"the kernel cannot serve: its BPF JIT compiler is off, and programs that call functions and other programs do not load without it: run `sysctl -w net.core.bpf_jit_enable=1`; it has no bpf_redirect_neigh, and programs that call it do not load: run Linux 5.10 or newer; or try all the same by --check-kernel=false");
    }

    #[test]
    fn k13_what_something_stands_in_for_is_no_reason_to_end() {
        let instead = |feature: &Feature| matches!(feature.without(), Without::Instead(_));
        let replaced: Vec<_> = Feature::ALL.into_iter().filter(instead).collect();
        let features = lacking(&replaced);
        assert_eq!(features.check(), Ok(()));
        let lines = features.findings().map(|it| match it.without {
            Some(Without::Instead(instead)) => format!("{}: {instead}", it.feature),
            Some(Without::Refuse(advice)) => format!("{}: refused, {advice}", it.feature),
            None => format!("{}: has", it.feature),
        });
        insta::assert_snapshot!(lines.collect::<Vec<_>>().join("\n"), @"
        BPF JIT compiler: has
        bpf_redirect_neigh: has
        tcx links: programs are attached by filters of the clsact qdisc
        source address from bpf_fib_lookup: packets to backends elsewhere have the node's primary address as source, whatever the route prefers
        bpf_set_retval in socket hooks: what a service refuses to a process of the node fails with EPERM, not ECONNREFUSED
        SO_NETNS_COOKIE: a BPF program on connect finds out the cookie of a network namespace
        batches of LPM tries: source ranges are read one by one, which takes longer
        ");
    }

    #[test]
    fn what_cannot_be_told_has_its_stand_in_used_and_refuses_nothing() {
        let features = Features::by(|_| State::Unknown("EPERM".to_owned()));
        assert_eq!(features.check(), Ok(()));
        assert!(!features.has(Feature::Tcx));
        let account = features.account();
        assert_eq!(account.len(), Feature::ALL.len());
        assert_eq!(account[2].state, FeatureState::Unknown);
        assert_eq!(account[2].error.as_deref(), Some("EPERM"));
        assert!(account[2].without.is_some());
    }

    #[test]
    fn programs_are_told_what_they_have_to_do_without() {
        let bits = |lacked: &[Feature]| lacking(lacked).lacks();
        assert_eq!(bits(&[]), 0);
        assert_eq!(bits(&[Feature::Tcx, Feature::NetnsCookie]), 0);
        assert_eq!(bits(&[Feature::FibSource]), kernel::FIB_SOURCE);
        assert_eq!(bits(&[Feature::Retval]), kernel::RETVAL);
        let unknown = Features::by(|_| State::Unknown(String::new()));
        assert_eq!(unknown.lacks(), kernel::FIB_SOURCE | kernel::RETVAL);
    }

    /// Of a kernel of any age, as long as the programs run on it.
    #[test]
    fn every_trial_says_whether_the_kernel_has_it() {
        let features = probe();
        for Finding { feature, state, .. } in features.findings() {
            assert!(
                matches!(state, State::Has | State::Lacks),
                "{feature}: {state:?}"
            );
        }
        assert_eq!(features.check(), Ok(()));
    }
}
