//! Fairlead's own annotations. The API server checks none of their values.

use std::{collections::BTreeMap, net::IpAddr};

use clap::ValueEnum as _;

use super::check;
use crate::model::{Algorithm, Weight};

/// Of a Service: how its new flows are spread.
pub(super) const ALGORITHM: &str = "fairlead.dev/algorithm";
/// Of an EndpointSlice: the weights of its endpoints.
pub(super) const WEIGHTS: &str = "fairlead.dev/weights";

/// Of a Pod: whether its sockets are led.
pub(super) const SOCKET_LB: &str = "fairlead.dev/socket-lb";

/// The path of an annotation.
pub(super) fn field(annotation: &str) -> String {
    format!("metadata.annotations[{annotation}]")
}

/// The value of [`ALGORITHM`].
pub(super) fn algorithm(text: &str) -> Result<Algorithm, String> {
    Algorithm::from_str(text.trim(), false).map_err(|_| {
        let all = Algorithm::value_variants().iter();
        let names: Vec<_> = all.map(|algorithm| algorithm.name()).collect();
        format!("{text:?} is not one of {}", names.join(", "))
    })
}

/// The value of [`SOCKET_LB`], of which there is one: the Pod is left to tc.
pub(super) fn socket_lb(text: &str) -> Result<(), String> {
    match text.trim() {
        "off" => Ok(()),
        other => Err(format!("{other:?} is not \"off\"")),
    }
}

/// The value of [`WEIGHTS`]: parts separated by commas, each `ADDRESS=WEIGHT`, or a weight alone for
/// the endpoints that no part names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Weights {
    named: BTreeMap<IpAddr, Weight>,
    others: Weight,
}

impl Weights {
    /// Reads the parts. What is wrong with those that cannot be read is told beside those that can.
    pub(super) fn parse(text: &str) -> (Self, Option<String>) {
        let mut weights = Self::default();
        let mut faults = Vec::new();
        for part in text.split(',').map(str::trim) {
            if let Err(reason) = weights.take(part) {
                faults.push(format!("{part:?}: {reason}"));
            }
        }
        (weights, (!faults.is_empty()).then(|| faults.join("; ")))
    }

    fn take(&mut self, part: &str) -> Result<(), String> {
        match part.split_once('=') {
            Some((address, weight)) => {
                let address = check::ip(address.trim())?;
                self.named.insert(address, self::weight(weight)?);
            }
            None => self.others = weight(part)?,
        }
        Ok(())
    }

    /// The weight of an endpoint.
    pub(super) fn of(&self, address: IpAddr) -> Weight {
        self.named.get(&address).copied().unwrap_or(self.others)
    }
}

fn weight(text: &str) -> Result<Weight, String> {
    let number = text.trim().parse::<u8>();
    let number = number.map_err(|_| {
        let most = Weight::MAX.number();
        format!("{text:?} is not a weight, 1 to {most}")
    });
    Weight::try_from(number?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> (Vec<u8>, Option<String>) {
        let (weights, fault) = Weights::parse(text);
        let hosts = ["10.0.0.1", "10.0.0.2", "fd00::1"];
        let of = |host: &str| weights.of(host.parse().unwrap()).number();
        (hosts.map(of).to_vec(), fault)
    }

    #[test]
    fn a_weight_is_of_the_named_endpoint_or_of_all_others() {
        for (text, weights) in [
            ("10.0.0.1=3,10.0.0.2=2", [3, 2, 1]),
            ("5", [5, 5, 5]),
            ("10.0.0.2=100 , 7", [7, 100, 7]),
            ("fd00:0::1 = 4", [1, 1, 4]),
        ] {
            assert_eq!(parse(text), (weights.to_vec(), None), "{text}");
        }
    }

    #[test]
    fn a_part_that_cannot_be_read_is_named_and_the_others_count() {
        let (weights, fault) = parse("10.0.0.1=0,10.0.0.2=2,x=3,101,-1");
        assert_eq!(weights, [1, 2, 1]);
        let fault = fault.unwrap();
        for part in [
            "\"10.0.0.1=0\": 0 is not 1 to 100",
            "\"x=3\": ",
            "\"101\": 101 is not 1 to 100",
            "\"-1\": \"-1\" is not a weight, 1 to 100",
        ] {
            assert!(fault.contains(part), "{part} in {fault}");
        }
        assert!(parse("").1.is_some());
    }

    #[test]
    fn algorithms_have_the_names_of_the_option() {
        assert_eq!(algorithm("maglev"), Ok(Algorithm::Maglev));
        assert_eq!(algorithm(" random"), Ok(Algorithm::Random));
        assert!(algorithm("Maglev").is_err());
    }
}
