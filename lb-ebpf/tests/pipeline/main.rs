//! The pipeline as a specification: what becomes of packets, on the host, without a kernel.
#![cfg(test)]

mod affinity;
mod any_packet;
mod choice;
mod forwarding;
mod fragments;
mod hashed;
mod icmp;
mod layouts;
mod life;
mod lifetime;
mod own;
mod ports;
mod reasons;
mod refusals;
mod rejects;
mod rows;
mod sides;
mod sockets;
mod source_ranges;
mod strays;
mod support;
mod told;
mod translation;
mod untranslated;
