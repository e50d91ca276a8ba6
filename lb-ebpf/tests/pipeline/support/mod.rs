//! What the pipeline runs on in these tests, see [`lb_model`], and layouts of packets at random.

pub(crate) use lb_model::{family, frame, icmp, node, packet, sockets, tables, wire};

pub(crate) mod fragment;
pub(crate) mod layout;
