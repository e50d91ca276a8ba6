//! What the pipeline runs on in these tests, see [`lb_model`], and layouts of packets at random.

use lb_ebpf::Hook;
pub(crate) use lb_model::{family, frame, icmp, node, packet, sockets, tables, wire};

pub(crate) mod answer;
pub(crate) mod ends;
pub(crate) mod fragment;
pub(crate) mod layout;

/// The hooks at which clients' flows are opened.
pub(crate) const OPENING: [Hook; 3] = [
    Hook::XDP_EXTERNAL,
    Hook::TC_EXTERNAL_INGRESS,
    Hook::TC_POD_INGRESS,
];
