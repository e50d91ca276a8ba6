//! Pod

use super::{Remarks, addresses};
use crate::{
    model::Pod,
    source::{annotations, kubernetes::objects},
};

/// A Pod, if it asks for something.
pub(super) fn pod(object: &objects::Pod, remarks: &mut Remarks) -> Option<Pod> {
    let text = object.metadata.annotations.as_ref()?.socket_lb.as_deref()?;
    let field = || annotations::field(annotations::SOCKET_LB);
    remarks.take(annotations::socket_lb(text), field)?;
    // Another Pod may have its addresses by now.
    if matches!(object.status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return None;
    }
    let given = object.status.pod_ips.iter().flatten();
    let given: Vec<_> = given.map(|pod_ip| pod_ip.ip.clone()).collect();
    Some(Pod {
        addresses: addresses(Some(&given), "status.podIPs", remarks),
    })
}
