//! How long a flow may be unused before its rows go.

use std::{collections::BTreeMap, fmt, time::Duration};

use lb_common::{Tick, flow::Stage, proto};

/// Protocols of flows, and the stages that theirs go through.
const PROTOCOLS: [(&str, u8, &[Stage]); 3] = [
    ("tcp", proto::TCP, &Stage::ALL),
    ("udp", proto::UDP, &[Stage::Opening, Stage::Established]),
    ("sctp", proto::SCTP, &Stage::ALL),
];

/// Longest that is taken: ticks wrap after nine years, and half of that is the past.
const LONGEST: Duration = Duration::from_hours(4 * 365 * 24);

/// What flows are given by default, in seconds. They are those of `nf_conntrack` (linux 6.18, and RFC 5382
/// and RFC 4787, which ask for no less), but for two that kube-proxy sets there: a day for established
/// connections and an hour for half closed ones. An SCTP association answers heartbeats every half minute
/// (RFC 9260, 16).
const DEFAULTS: [(u8, Stage, u32); 12] = [
    (proto::TCP, Stage::Opening, 120),
    (proto::TCP, Stage::Established, 86_400),
    (proto::TCP, Stage::Closing, 3_600),
    (proto::TCP, Stage::Closed, 120),
    (proto::TCP, Stage::Reset, 10),
    (proto::UDP, Stage::Opening, 30),
    (proto::UDP, Stage::Established, 120),
    (proto::SCTP, Stage::Opening, 60),
    (proto::SCTP, Stage::Established, 210),
    (proto::SCTP, Stage::Closing, 60),
    (proto::SCTP, Stage::Closed, 10),
    (proto::SCTP, Stage::Reset, 10),
];

/// How long flows may be unused, by protocol and stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::agent) struct Lifetimes(BTreeMap<(u8, Stage), u32>);

impl Default for Lifetimes {
    fn default() -> Self {
        let defaults = DEFAULTS.into_iter();
        Self(
            defaults
                .map(|(proto, stage, it)| ((proto, stage), it))
                .collect(),
        )
    }
}

impl Lifetimes {
    /// The default ones, but for these.
    pub(in crate::agent) fn with(changes: &[Lifetime]) -> Self {
        let mut lifetimes = Self::default();
        for Lifetime {
            proto,
            stage,
            seconds,
        } in changes
        {
            lifetimes.0.insert((*proto, *stage), *seconds);
        }
        lifetimes
    }

    /// Ticks that a flow may be unused for. The stamps of rows are up to a second old, and nobody is to
    /// be forgotten early.
    pub(super) fn ticks(&self, proto: u8, stage: Stage) -> u32 {
        let seconds = self.0.get(&(proto, stage)).copied().unwrap_or(0);
        Tick::in_seconds(seconds) + Tick::PER_SECOND
    }
}

impl fmt::Display for Lifetimes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = each().filter_map(|(name, key)| Some((name, self.0.get(&key)?)));
        let known: Vec<_> = known.map(|(name, it)| format!("{name}={it}s")).collect();
        f.write_str(&known.join(","))
    }
}

/// One of them as it is told: `tcp-established=24h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::agent) struct Lifetime {
    proto: u8,
    stage: Stage,
    seconds: u32,
}

impl Lifetime {
    /// The one of this name, with this length.
    pub(in crate::agent) fn new(name: &str, length: Duration) -> Result<Self, String> {
        let (proto, stage) = named(name).ok_or_else(|| {
            let names: Vec<_> = names().collect();
            format!("{name:?} is none of {}", names.join(", "))
        })?;
        if length < Duration::from_secs(1) || length > LONGEST {
            return Err(format!(
                "{name} must be at least 1s and at most {}h",
                LONGEST.as_secs() / 3600
            ));
        }
        let seconds = u32::try_from(length.as_secs()).unwrap_or(u32::MAX);
        Ok(Self {
            proto,
            stage,
            seconds,
        })
    }
}

fn each() -> impl Iterator<Item = (String, (u8, Stage))> {
    PROTOCOLS.into_iter().flat_map(|(name, proto, stages)| {
        let named = move |stage: &Stage| (format!("{name}-{}", stage.name()), (proto, *stage));
        stages.iter().map(named)
    })
}

/// What they are called.
fn names() -> impl Iterator<Item = String> {
    each().map(|(name, _)| name)
}

fn named(name: &str) -> Option<(u8, Stage)> {
    each().find(|(known, _)| known == name).map(|(_, it)| it)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_stage_of_a_protocol_has_a_name_and_a_default() {
        let Lifetimes(defaults) = Lifetimes::default();
        let known: BTreeMap<_, _> = each().map(|(name, key)| (key, name)).collect();
        assert!(defaults.keys().eq(known.keys()), "{defaults:?} {known:?}");
    }

    #[test]
    fn what_is_told_changes_nothing_else() {
        let hour = Lifetime::new("udp-established", Duration::from_secs(3600)).unwrap();
        let Lifetimes(changed) = Lifetimes::with(&[hour]);
        let Lifetimes(mut defaults) = Lifetimes::default();
        defaults.insert((proto::UDP, Stage::Established), 3600);
        assert_eq!(changed, defaults);
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        let error = Lifetime::new("tcp-open", Duration::from_secs(1)).unwrap_err();
        assert!(
            error.starts_with("\"tcp-open\" is none of tcp-opening, tcp-established"),
            "{error}"
        );
        for length in [Duration::ZERO, Duration::MAX] {
            let error = Lifetime::new("udp-opening", length).unwrap_err();
            assert_eq!(error, "udp-opening must be at least 1s and at most 35040h");
        }
    }

    /// Longer than any of them, a flow that was just used must not look as if it was not.
    #[test]
    fn the_longest_lifetime_is_less_than_half_of_all_ticks() {
        let ticks = Tick::in_seconds(u32::try_from(LONGEST.as_secs()).unwrap());
        assert!(ticks < u32::MAX / 2);
    }
}
