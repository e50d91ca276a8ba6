//! What is asked for.

use serde::Serialize;

use super::{
    contestant::{Case, Client, Contestant, Measure},
    figures::{Figure, Runs},
};
use crate::bench::{control_plane::Size, table::Cells};

/// The part of what there is without a proxy: through sockets, and through tc.
const OF_DIRECT: [(Client, f64); 2] = [(Client::Host, 0.97), (Client::Pod, 0.9)];
/// The part of the better kube-proxy, anywhere.
const OF_KUBE_PROXY: f64 = 1.0;
/// The part of its connections, with so many services.
const CONNECTIONS: (u32, f64) = (10_000, 1.2);
/// The part of the packets to node ports that it sends on with the same CPU.
const NODE_PORT: f64 = 1.5;
/// Microseconds of a CPU that a connect takes more than one that no hook sees.
const CONNECT_US: f64 = 2.0;

/// A figure, and what it has to be.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Requirement {
    /// What it is.
    pub what: String,
    /// Services.
    pub services: u32,
    /// The figure; none where it was not measured.
    pub figure: Option<f64>,
    /// The limit.
    pub limit: f64,
    /// Which side of the limit it has to be on.
    pub bound: Bound,
}

/// A side of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bound {
    /// Not below.
    AtLeast,
    /// Not above.
    AtMost,
}

impl Requirement {
    /// Whether it is met; what was not measured is not.
    pub fn is_met(&self) -> bool {
        // Nor is what is no number.
        self.figure.is_some_and(|figure| match self.bound {
            Bound::AtLeast => figure >= self.limit,
            Bound::AtMost => figure <= self.limit,
        })
    }

    pub(super) fn cells(&self) -> Cells {
        let sign = match self.bound {
            Bound::AtLeast => ">=",
            Bound::AtMost => "<=",
        };
        let figure = self.figure.map(|figure| format!("{figure:.3}"));
        vec![
            self.what.clone(),
            self.services.to_string(),
            figure.unwrap_or_else(|| "not measured".to_owned()),
            format!("{sign} {}", self.limit),
            if self.is_met() { "" } else { "UNMET" }.to_owned(),
        ]
    }
}

/// What is asked for at a size.
pub(super) fn requirements(size: Size, runs: &Runs) -> Vec<Requirement> {
    let asked = |what: String, figure, limit, bound| Requirement {
        what,
        services: size.services,
        figure,
        limit,
        bound,
    };
    let at_least = |what, figure, limit| asked(what, figure, limit, Bound::AtLeast);
    let mut all = Vec::new();
    for (case, figure) in compared() {
        let what = format!("{}, {}", case.name(), figure.name());
        for (_, limit) in OF_DIRECT
            .iter()
            .filter(|(client, _)| *client == case.client)
        {
            let both = [Contestant::Fairlead, Contestant::Direct];
            let ratio = runs.ratio(both, case, figure).map(|ratio| ratio.median);
            all.push(at_least(format!("{what}, of direct"), ratio, *limit));
        }
        let limit = of_kube_proxy(size, case, figure);
        let ratio = of_better(runs, case, figure);
        all.push(at_least(format!("{what}, of kube-proxy"), ratio, limit));
    }
    let connect = Case::new(Client::Host, Measure::Connect);
    let both = [Contestant::Fairlead, Contestant::Direct];
    let excess = runs.excess(both, connect).map(|excess| excess.median);
    let what = format!("{}, us over direct", connect.name());
    all.push(asked(what, excess, CONNECT_US, Bound::AtMost));
    all
}

/// The figures that are held against those of others. A connect alone is but a part of one, asked for
/// in microseconds.
fn compared() -> impl Iterator<Item = (Case, Figure)> {
    let cases = Case::ALL.into_iter();
    let cases = cases.filter(|case| case.measure != Measure::Connect);
    cases.flat_map(|case| {
        let figures: &[Figure] = match case.measure {
            Measure::Bulk | Measure::NodePort | Measure::Connect => &[Figure::Rate],
            Measure::ConnectClose | Measure::KeepAlive | Measure::Datagrams => &Figure::ALL,
        };
        figures.iter().map(move |figure| (case, *figure))
    })
}

fn of_kube_proxy(size: Size, case: Case, figure: Figure) -> f64 {
    let (services, connections) = CONNECTIONS;
    match (case.measure, figure) {
        (Measure::NodePort, _) => NODE_PORT,
        (Measure::ConnectClose, Figure::Rate) if size.services >= services => connections,
        (_, _) => OF_KUBE_PROXY,
    }
}

/// Beside kube-proxy in the mode that is the better one here.
fn of_better(runs: &Runs, case: Case, figure: Figure) -> Option<f64> {
    let ratios = Contestant::KUBE_PROXY.into_iter().filter_map(|theirs| {
        let ratio = runs.ratio([Contestant::Fairlead, theirs], case, figure)?;
        Some(ratio.median)
    });
    ratios.reduce(f64::min)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::traffic::figures::Run;
    use std::time::Duration;

    const SMALL: Size = Size {
        services: 1,
        endpoints: 10,
    };

    /// Runs in which each contestant has this rate everywhere.
    fn runs(rates: &[(Contestant, f64)]) -> Runs {
        let mut runs = Runs::default();
        for (contestant, rate) in rates {
            for case in Case::ALL.into_iter().filter(|case| case.is_of(*contestant)) {
                let is_timed = compared().any(|it| it == (case, Figure::P99));
                let time = is_timed.then_some(1e6 / rate);
                let (p50, p99) = (time, time);
                let run = Run {
                    rate: *rate,
                    p50,
                    p99,
                };
                runs.push(*contestant, case, run);
            }
        }
        runs
    }

    fn unmet(size: Size, runs: &Runs) -> Vec<String> {
        let unmet = requirements(size, runs).into_iter();
        let unmet = unmet.filter(|requirement| !requirement.is_met());
        unmet.map(|requirement| requirement.what).collect()
    }

    #[test]
    fn what_is_met_is_told_with_the_rest() {
        let runs = runs(&[
            (Contestant::Direct, 100_000.0),
            (Contestant::Fairlead, 98_000.0),
            (Contestant::Nftables, 60_000.0),
            (Contestant::Iptables, 50_000.0),
        ]);
        assert_eq!(unmet(SMALL, &runs), [""; 0]);
        assert_eq!(unmet(Size::LARGE, &runs), [""; 0]);
        // 10 figures of two clients beside two, the node port's, and the connect's.
        assert_eq!(requirements(SMALL, &runs).len(), 2 * 10 * 2 + 2);
    }

    #[test]
    fn sockets_are_to_be_nearer_to_direct_than_packets() {
        let runs = runs(&[
            (Contestant::Direct, 100_000.0),
            (Contestant::Fairlead, 95_000.0),
            (Contestant::Nftables, 60_000.0),
        ]);
        let unmet = unmet(SMALL, &runs);
        assert_eq!(unmet.len(), 10, "{unmet:?}");
        let is_of_sockets = |what: &String| what.starts_with("host") && what.ends_with("direct");
        assert!(unmet.iter().all(is_of_sockets), "{unmet:?}");
    }

    #[test]
    fn kube_proxy_is_taken_in_the_mode_that_is_better() {
        let rates = |nftables, iptables| {
            runs(&[
                (Contestant::Direct, 100_000.0),
                (Contestant::Fairlead, 99_000.0),
                (Contestant::Nftables, nftables),
                (Contestant::Iptables, iptables),
            ])
        };
        let node_port = "external, NodePort packet, rate, of kube-proxy";
        let connections = ["host", "pod"]
            .map(|client| format!("{client}, connect, request, close, rate, of kube-proxy"));
        for rates in [rates(90_000.0, 10_000.0), rates(10_000.0, 90_000.0)] {
            assert_eq!(unmet(SMALL, &rates), [node_port]);
            let [host, pod] = &connections;
            assert_eq!(unmet(Size::LARGE, &rates), [host, pod, node_port]);
        }
    }

    #[test]
    fn what_was_not_measured_is_not_met() {
        let runs = runs(&[
            (Contestant::Direct, 100_000.0),
            (Contestant::Fairlead, 99_000.0),
        ]);
        let all = requirements(SMALL, &runs);
        let unmet: Vec<_> = all.iter().filter(|it| !it.is_met()).collect();
        assert_eq!(unmet.len(), 2 * 10 + 1);
        assert!(unmet.iter().all(|it| it.figure.is_none()));
        assert!(unmet.iter().all(|it| it.what.ends_with("kube-proxy")));
    }

    #[test]
    fn a_connect_may_take_so_much_more() {
        let connects = |nanoseconds: u64| {
            let mut runs = Runs::default();
            let case = Case::new(Client::Host, Measure::Connect);
            let one = |nanoseconds| Run::of_cpu(1, Duration::from_nanos(nanoseconds));
            runs.push(Contestant::Direct, case, one(1_000));
            runs.push(Contestant::Fairlead, case, one(1_000 + nanoseconds));
            requirements(SMALL, &runs).pop().unwrap()
        };
        assert!(connects(1_900).is_met());
        assert!(!connects(2_100).is_met());
    }
}
