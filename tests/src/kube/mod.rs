//! A real Kubernetes control plane: `etcd`, `kube-apiserver` and, if wanted, the controllers, as
//! `cargo xtask kube-assets` builds them.
//!
//! It lives in a network namespace of its own with a bridge for management. What
//! [joins](ControlPlane::join) it, such as a node's namespace, reaches the API server at
//! [`ADDRESS`]; a [`Detour`] is a worse way there. Requests of the test itself go through
//! [`ControlPlane::run`], since this process is outside.
//!
//! Nodes and Pods are made by hand ([`objects`]): there is no kubelet and no scheduler.

mod access;
mod apply;
mod assets;
mod cluster;
mod control_plane;
mod detour;
mod etcd;
mod kube_proxy;
mod network;
pub mod objects;
mod pki;
mod replica;
mod runtime;

pub use access::Account;
pub use assets::are_there;
pub use cluster::{Api, node_object};
pub use control_plane::{ControlPlane, Options, Part, documents};
pub use detour::Detour;
pub use kube_proxy::{KubeProxy, Mode, iptables_version};
pub use network::{ADDRESS, INTERFACE};
pub use pki::Signer;
pub use replica::Replica;
pub use runtime::Inside;
