//! The Services that are asked for, behind all others in every list.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::Result;
use serde_json::{Value, json};

use super::serve::{BULK, DATAGRAMS, OFTEN, ONCE, SINK};
use crate::{
    bench::control_plane::objects::{SERVICES, SLICES, post, service, slice},
    kube::ControlPlane,
};

/// Where the servers are that answer.
pub(super) const NEAR: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 81);
/// Where the server is that says nothing.
const FAR: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 82);
/// Its node port.
pub(super) const NODE_PORT: u16 = 30_705;

const PORTS: [(&str, &str, u16); 4] = [
    ("once", "TCP", ONCE),
    ("often", "TCP", OFTEN),
    ("bulk", "TCP", BULK),
    ("datagrams", "UDP", DATAGRAMS),
];

/// An object, and where the API server takes it.
pub(super) type Placed = (&'static str, Value);

/// A Service that leads to all servers of `near`, and one with a node port that leads to `far`.
pub(super) fn all(near: IpAddr, far: IpAddr) -> Vec<Placed> {
    let ports = PORTS
        .map(|(name, protocol, port)| json!({ "name": name, "protocol": protocol, "port": port }));
    let near_spec = json!({ "clusterIP": NEAR, "ports": ports });
    let mut port = json!({ "name": "sink", "protocol": "UDP", "port": SINK });
    let far_ports = json!([port]);
    port["nodePort"] = json!(NODE_PORT);
    let far_spec = json!({ "type": "NodePort", "clusterIP": FAR, "ports": [port] });
    let made = [
        ("zz-traffic", near_spec, json!(ports), near),
        ("zz-traffic-far", far_spec, far_ports, far),
    ];
    let both = made.iter().flat_map(|(name, spec, ports, address)| {
        [
            (SERVICES, service(name, spec)),
            (SLICES, slice(name, ports, &[endpoint(*address)])),
        ]
    });
    both.collect()
}

/// Makes objects.
pub(super) fn make(control: &ControlPlane, objects: &[Placed]) -> Result<()> {
    control.run(|client| async move {
        for (place, object) in objects {
            post(&client, place, object).await?;
        }
        Ok::<_, anyhow::Error>(())
    })
}

fn endpoint(address: IpAddr) -> Value {
    json!({
        "addresses": [address],
        "conditions": { "ready": true, "serving": true, "terminating": false },
    })
}
