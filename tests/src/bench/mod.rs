//! `cargo xtask bench`: figures, held against what was asked. [`control_plane`] is what it costs to
//! follow a cluster, [`traffic`] what clients have of a proxy; all else here is `bench datapath`: what a packet costs, held against the price of
//! the primitives it cannot do without.
//!
//! There everything is measured by `BPF_PROG_TEST_RUN` of an outer program that lays a fresh packet
//! before each run of the target (`lb-ebpf/src/bench`). Floor, primitive and path are timed in
//! turn, round by round, on one CPU; a figure is the median over the rounds of the difference.

mod begun;
mod choice;
pub mod control_plane;
mod extent;
mod maglev;
mod measure;
mod packet;
mod pair;
mod report;
mod rows;
mod table;
pub mod traffic;
mod world;

pub use extent::Extent;
pub use maglev::Turned;
pub use pair::{Pairing, Ratio, paired};
pub use report::{Others, Report, Row};
pub use rows::{built_objects, datapath};

/// Address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4
    V4,
    /// IPv6
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The name in a report.
    pub const fn name(self) -> &'static str {
        match self {
            Self::V4 => "v4",
            Self::V6 => "v6",
        }
    }
}
