//! Metrics made when they are asked for: a family of samples from plain numbers.

use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};

use super::definitions::{Definition, Kind};

/// A metric with all its samples.
pub(super) type Family = MetricFamily;

/// A count as a sample: all of Prometheus's numbers are floats.
#[expect(
    clippy::cast_precision_loss,
    reason = "beyond 2^53 what is lost is nothing a rate would show"
)]
pub(super) const fn number(count: u64) -> f64 {
    count as f64
}

/// The one sample of a metric without labels.
pub(super) fn single(definition: &Definition, value: f64) -> Family {
    family(definition, [(Vec::new(), value)])
}

/// A metric with these samples: the values of its labels, in the order of the definition, and its
/// own.
pub(super) fn family(
    definition: &Definition,
    samples: impl IntoIterator<Item = (Vec<String>, f64)>,
) -> Family {
    let metrics = samples
        .into_iter()
        .map(|(labels, value)| sample(definition, labels, value));
    let mut family = Family::default();
    family.set_name(definition.name.to_owned());
    family.set_help(definition.help.to_owned());
    family.set_field_type(match definition.kind {
        Kind::Counter => MetricType::COUNTER,
        Kind::Gauge | Kind::Histogram(_) => MetricType::GAUGE,
    });
    family.set_metric(metrics.collect());
    family
}

fn sample(definition: &Definition, labels: Vec<String>, value: f64) -> Metric {
    let pairs = definition.labels.iter().zip(labels).map(|(name, value)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value(value);
        pair
    });
    let mut metric = Metric::from_label(pairs.collect());
    match definition.kind {
        Kind::Counter => {
            let mut counter = Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        }
        Kind::Gauge | Kind::Histogram(_) => {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
    }
    metric
}
