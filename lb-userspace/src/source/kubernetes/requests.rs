//! An account of what the API server was asked.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

/// Counts requests. Clones count on the same account.
#[derive(Clone, Debug, Default)]
pub struct Requests(Arc<Mutex<BTreeMap<Request, u64>>>);

/// What is alike of requests that are counted together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Request {
    /// Status of the answer; none if none came.
    pub status: Option<u16>,
    /// HTTP method.
    pub method: String,
    /// The server, with its port if that was named.
    pub host: String,
}

impl Requests {
    /// How many there were of each.
    pub fn counts(&self) -> BTreeMap<Request, u64> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// A request is sent. It is counted when it is over, one that nobody waits for any more
    /// included.
    pub(crate) fn sent<B>(&self, request: &http::Request<B>) -> Sent {
        let host = request.uri().authority();
        Sent {
            account: self.clone(),
            request: Request {
                status: None,
                method: request.method().to_string(),
                host: host.map(ToString::to_string).unwrap_or_default(),
            },
        }
    }
}

/// A request that is under way.
pub(crate) struct Sent {
    account: Requests,
    request: Request,
}

impl Sent {
    /// An answer has begun.
    pub(crate) fn answered(mut self, status: http::StatusCode) {
        self.request.status = Some(status.as_u16());
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        let counts = self.account.0.lock();
        let mut counts = counts.unwrap_or_else(PoisonError::into_inner);
        *counts.entry(self.request.clone()).or_default() += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_count_by_how_they_ended() {
        let requests = Requests::default();
        let request = |method: &str| {
            let request = http::Request::builder().method(method);
            request.uri("https://192.0.2.1:6443/api").body(()).unwrap()
        };
        requests
            .sent(&request("GET"))
            .answered(http::StatusCode::OK);
        requests
            .clone()
            .sent(&request("GET"))
            .answered(http::StatusCode::OK);
        let under_way = requests.sent(&request("POST"));
        let shown = || -> Vec<String> {
            let counts = requests.counts().into_iter();
            let line = |(request, count): (Request, u64)| {
                let Request {
                    status,
                    method,
                    host,
                } = request;
                format!("{status:?} {method} {host}: {count}")
            };
            counts.map(line).collect()
        };
        assert_eq!(shown(), ["Some(200) GET 192.0.2.1:6443: 2"]);
        drop(under_way);
        assert_eq!(
            shown(),
            [
                "None POST 192.0.2.1:6443: 1",
                "Some(200) GET 192.0.2.1:6443: 2"
            ]
        );
    }
}
