//! Whether the agent does its work, and whether its node is to be used (SEMANTICS I1 to I6).

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use hyper::StatusCode;
use k8s_openapi::jiff::Timestamp;
use serde::Serialize;

use super::{
    answer::{Answer, Content, answer},
    moment::Moment,
};
use crate::control::ByFamily;

/// What stands for a time that never was, as clients of kube-proxy know it.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// How far programming has come.
#[derive(Clone, Debug)]
pub(super) struct Health {
    /// How long a change may wait.
    patience: Duration,
    families: ByFamily<Progress>,
    /// Whether load balancers may send to this node.
    eligible: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    /// Since when the oldest change that is not in force waits.
    waiting: Option<Instant>,
    /// When changes were last brought into force.
    applied: Option<Timestamp>,
}

impl Health {
    /// Nothing has happened: that is healthy.
    pub(super) fn new(patience: Duration) -> Self {
        Self {
            patience,
            families: ByFamily::default(),
            eligible: true,
        }
    }

    /// A change has come that concerns both families.
    pub(super) fn queued(&mut self, now: Moment) {
        for family in self.families.each_mut() {
            family.waiting.get_or_insert(now.instant);
        }
    }

    /// Where `done`, all that had come is in force.
    pub(super) fn applied(&mut self, done: ByFamily<bool>, now: Moment) {
        let done = [done.v4, done.v6];
        for (family, _) in self
            .families
            .each_mut()
            .into_iter()
            .zip(done)
            .filter(|f| f.1)
        {
            *family = Progress {
                waiting: None,
                applied: Some(now.wall),
            };
        }
    }

    /// Whether load balancers may send to this node.
    pub(super) const fn set_eligible(&mut self, eligible: bool) {
        self.eligible = eligible;
    }

    /// Whether no change has waited for too long.
    pub(super) fn healthy(&self, now: Moment) -> bool {
        let families = self.families.named();
        families.iter().all(|(_, family)| self.in_time(family, now))
    }

    /// The answer of `/healthz`.
    pub(super) fn healthz(&self, now: Moment) -> Answer {
        self.tell(self.healthy(now) && self.eligible, Some(self.eligible), now)
    }

    /// The answer of `/livez`: a node that is being emptied is no reason to restart the agent.
    pub(super) fn livez(&self, now: Moment) -> Answer {
        self.tell(self.healthy(now), None, now)
    }

    fn in_time(&self, family: &Progress, now: Moment) -> bool {
        let waited = family
            .waiting
            .map(|since| now.instant.saturating_duration_since(since));
        waited.is_none_or(|waited| waited < self.patience)
    }

    fn tell(&self, good: bool, node_eligible: Option<bool>, now: Moment) -> Answer {
        let families = self.families.named();
        let touched = families
            .iter()
            .filter(|(_, family)| family.applied.is_some() || !self.in_time(family, now));
        let latest = families
            .iter()
            .filter_map(|(_, family)| family.applied)
            .max();
        let body = Body {
            // While all is well the time is recent, changes or not: probes look at its age.
            last_updated: time(if good { Some(now.wall) } else { latest }),
            current_time: now.wall.to_string(),
            node_eligible,
            // Not `good`: kube-proxy leaves the node out of this field, though not of the status.
            healthy: self.healthy(now),
            status: touched
                .map(|(name, family)| {
                    let status = FamilyBody {
                        last_updated: time(family.applied),
                        healthy: self.in_time(family, now),
                    };
                    (*name, status)
                })
                .collect(),
        };
        let status = if good {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        let body = serde_json::to_string(&body).unwrap_or_default();
        answer(status, Content::Json, body)
    }
}

fn time(time: Option<Timestamp>) -> String {
    time.map_or_else(|| NEVER.to_owned(), |time| time.to_string())
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    last_updated: String,
    current_time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_eligible: Option<bool>,
    healthy: bool,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    status: BTreeMap<&'static str, FamilyBody>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FamilyBody {
    last_updated: String,
    healthy: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::serve::answer::shown;

    /// Plays a story of `SECONDS WHAT...` lines and shows what is answered after each.
    fn play(story: &[&str]) -> String {
        let start = Instant::now();
        let mut health = Health::new(Duration::from_secs(60));
        let mut told = Vec::new();
        for line in story {
            let (at, what) = line.split_once(' ').unwrap();
            let at: f64 = at.parse().unwrap();
            let now = Moment {
                instant: start + Duration::from_secs_f64(at),
                wall: Timestamp::from_millisecond(1_772_366_400_000 + (at * 1000.0) as i64)
                    .unwrap(),
            };
            let done = |v4, v6| ByFamily { v4, v6 };
            match what {
                "queued" => health.queued(now),
                "applied" => health.applied(done(true, true), now),
                "applied IPv4" => health.applied(done(true, false), now),
                "eligible" => health.set_eligible(true),
                "not eligible" => health.set_eligible(false),
                "healthz" => told.push(format!("{line}: {}", shown(&health.healthz(now)))),
                "livez" => told.push(format!("{line}: {}", shown(&health.livez(now)))),
                "healthy" => told.push(format!("{line}: {}", health.healthy(now))),
                _ => panic!("{line}"),
            }
        }
        told.join("\n\n")
    }

    #[test]
    fn i1_i5_answers_letter_by_letter() {
        insta::assert_snapshot!(play(&[
            "0 healthz",
            "0 livez",
            "1 queued",
            "1.5 applied",
            "2.25 healthz",
            "2.25 livez",
            "3 queued",
            "3.125 applied IPv4",
            "63 healthz",
            "63 livez",
        ]));
    }

    #[test]
    fn i2_only_the_oldest_change_that_waits_counts() {
        insta::assert_snapshot!(play(&[
            "0 healthy",
            "100 healthy",
            "100 queued",
            "150 queued",
            "159.999 healthy",
            "160 healthy",
            "161 applied",
            "161 healthy",
            "1000 healthy",
            "1001 queued",
            "1002 applied IPv4",
            "1060.999 healthy",
            "1061 healthy",
        ]));
    }

    #[test]
    fn i2_a_first_change_that_never_gets_into_force_is_not_healthy() {
        insta::assert_snapshot!(play(&["0 queued", "59 livez", "60 livez", "60 healthz"]));
    }

    #[test]
    fn i3_i4_a_node_that_is_not_eligible_fails_healthz_alone_and_its_body_stays_healthy() {
        insta::assert_snapshot!(play(&[
            "0 queued",
            "0 applied",
            "10 not eligible",
            "10 healthz",
            "10 livez",
            "20 eligible",
            "20 healthz",
        ]));
    }

    #[test]
    fn i3_a_node_that_is_not_eligible_from_the_start() {
        insta::assert_snapshot!(play(&["0 not eligible", "0 healthz"]));
    }
}
