//! Fairlead against real packets.
//!
//! A [`topology`] is a client, two nodes and their pods in network namespaces ([`netns`]), which
//! leaves nothing behind ([`site`]). Real sockets talk across it ([`echo`], [`talk`]), a
//! [`capture`] checks every checksum on the wire, and the [`agent`]s under test run on its nodes
//! with [`manifests`] that change while they run, or on the objects of a real API server ([`kube`]).
//! The [`demo`] shows all of it to people.

pub mod agent;
pub mod bench;
pub mod bpffs;
pub mod capture;
pub mod cgroup;
pub mod checks;
pub mod cluster;
pub mod command;
pub mod course;
pub mod crafted;
pub mod demo;
pub mod echo;
pub mod fixture;
pub mod frontends;
pub mod kernel;
pub mod kube;
pub mod manifests;
pub mod netns;
pub mod old_kernel;
pub mod patience;
pub mod process;
pub mod random;
pub mod raw;
pub mod sctp;
pub mod site;
pub mod talk;
pub mod topology;
pub mod verifier;
