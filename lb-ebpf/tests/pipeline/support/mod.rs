//! What the pipeline runs on in these tests: packets as byte vectors, maps as hash maps, a clock
//! and a FIB that do as they are told.

pub(crate) mod family;
pub(crate) mod flows;
pub(crate) mod fragment;
pub(crate) mod frame;
pub(crate) mod icmp;
pub(crate) mod layout;
pub(crate) mod node;
pub(crate) mod packet;
pub(crate) mod sockets;
pub(crate) mod tables;
pub(crate) mod wire;
