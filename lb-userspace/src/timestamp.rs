//! Points in time as people and Kubernetes read them.

use k8s_openapi::jiff::{Timestamp, Unit};

/// The time, to the second, in RFC 3339.
pub(crate) fn now_text() -> String {
    let now = Timestamp::now();
    now.round(Unit::Second).unwrap_or(now).to_string()
}
