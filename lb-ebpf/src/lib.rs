//! Fairlead's packet pipeline: what happens to a packet, as pure safe Rust.
//!
//! [`process`] is the whole of it, [`fast`](fn@fast) a shortcut for what is usual. They see a packet
//! through [`Packet`] and the maps through [`Flows`] and [`Tables`], and answer with a [`Verdict`].
//! The binaries of this crate give them real packets and BPF maps; tests on the host give them byte
//! vectors and hash maps. The lines in between are the same.
//!
//! [`lead`] and [`service`] are the same for the calls of a process on its socket.
#![cfg_attr(target_arch = "bpf", no_std)]
#![forbid(unsafe_code)]

mod allowance;
mod checksum;
mod choice;
mod crc32c;
mod datagram;
mod fast;
mod fragment;
mod hash;
mod hop;
mod icmp;
mod life;
mod open;
mod packet;
mod parse;
mod pipeline;
mod reject;
mod rewrite;
mod rows;
mod socket;
mod tables;
mod verdict;

pub use allowance::take as take_allowance;
pub use checksum::{Sum, update_checksum};
pub use choice::{drawn, listed};
#[cfg(not(target_arch = "bpf"))]
pub use crc32c::crc32c;
pub use crc32c::sctp_checksum_change;
pub use datagram::Datagram;
pub use fast::{fast, unfinished};
pub use hash::flow_hash;
pub use packet::{OF_ANY_LENGTH, Packet, TransportChecksum};
pub use pipeline::process;
pub use reject::reject;
pub use socket::{Answer, Call, Operation, Outcome, lead, lead_v6, service, service_v6};
pub use tables::{Entry, Fib, FibQuery, Flows, InsertError, Reach, Sockets, Tables};
pub use verdict::{Hook, Notice, Side, Verdict};
