//! What was asked of the API server, as every Kubernetes component tells it.

use super::{
    definitions as d,
    family::{Family, family, number},
};
use crate::source::kubernetes::{Request, Requests};

/// The label of a request that was not answered.
const NO_ANSWER: &str = "<error>";

/// The `rest_client_` metrics; without samples where there is no API server.
pub(super) fn families(requests: &Requests) -> Vec<Family> {
    let counts = requests.counts().into_iter();
    let samples = counts.map(|(request, count)| {
        let Request {
            status,
            method,
            host,
        } = request;
        let code = status.map_or_else(|| NO_ANSWER.to_owned(), |status| status.to_string());
        (vec![code, method, host], number(count))
    });
    vec![family(&d::REQUESTS, samples)]
}
