//! Fairlead in user space: the agent that keeps the BPF maps true, and the tool that shows them.
//!
//! An object's path: [`source`] → [`model`] → [`control`] → [`maps`]. The agent ties these together
//! with [`agent`]; [`cli`] is `lbctl`, which reads what the agent pinned ([`pins`], [`status`]).

pub mod agent;
pub mod bpf;
pub mod cli;
pub mod control;
pub mod full_path;
pub mod maps;
pub mod model;
pub mod pins;
pub mod source;
pub mod status;
mod timestamp;
