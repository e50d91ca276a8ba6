//! The health check port of a Service: its answer (SEMANTICS H3 to H6).

use hyper::{
    StatusCode,
    header::{HeaderName, HeaderValue},
};
use serde::Serialize;

use super::answer::{Answer, Content, answer};
use crate::model::ObjectName;

/// Tells a load balancer whether to send this Service's clients here: `local` endpoints are ready,
/// and programming is `healthy`.
pub(super) fn tell(service: &ObjectName, local: usize, healthy: bool) -> Answer {
    let status = if local != 0 && healthy {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let body = Body {
        service: Name {
            namespace: &service.namespace,
            name: &service.name,
        },
        local_endpoints: local,
        service_proxy_healthy: healthy,
    };
    let mut answer = answer(status, Content::Json, pretty(&body));
    let name = HeaderName::from_static("x-load-balancing-endpoint-weight");
    answer.headers_mut().insert(name, HeaderValue::from(local));
    answer
}

/// JSON as kube-proxy lays it out: a field a line, indented by tabs.
fn pretty(body: &Body<'_>) -> String {
    let mut json = Vec::new();
    let layout = serde_json::ser::PrettyFormatter::with_indent(b"\t");
    let mut serializer = serde_json::Serializer::with_formatter(&mut json, layout);
    match body.serialize(&mut serializer) {
        Ok(()) => String::from_utf8(json).unwrap_or_default(),
        Err(_) => String::new(),
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    service: Name<'a>,
    local_endpoints: usize,
    service_proxy_healthy: bool,
}

#[derive(Serialize)]
struct Name<'a> {
    namespace: &'a str,
    name: &'a str,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::serve::answer::shown;

    #[test]
    fn h3_h5_h6_answers_letter_by_letter() {
        let service = ObjectName::new("shop", "web");
        let rows = [(2, true), (0, true), (2, false), (0, false)];
        let answers = rows.map(|(local, healthy)| {
            let answer = shown(&tell(&service, local, healthy));
            format!("{local} local endpoints, healthy {healthy}: {answer}")
        });
        insta::assert_snapshot!(answers.join("\n\n"));
    }
}
