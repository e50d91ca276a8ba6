//! The contract of docs/semantics.md, row by row: real objects on a real API server, an agent on
//! each of two nodes, real sockets. A test's name begins with its row.
//!
//! A row reads as *given* objects, *when* something changes, *then* this is who answers. What a row
//! makes is removed when it is through; [`world`] has the words.

mod agents;
mod flows;
mod objects;
mod seen;
mod world;

mod a;
mod api;
mod b;
mod c;
mod cleanup;
mod config;
mod conntrack;
mod d;
mod e;
mod f;
mod families;
mod firewall;
mod g;
mod h;
mod i;
mod j;
mod k;
mod localhost;
mod node;
mod pods;
mod rights;
mod segments;

use std::process::ExitCode;

use tests::{checks::Checks, old_kernel};

use crate::world::World;

fn main() -> ExitCode {
    if let Err(error) = old_kernel::run_if_asked() {
        eprintln!("{error:#}");
        return ExitCode::FAILURE;
    }
    let mut checks = Checks::from_args();
    let rows = [
        a::rows(),
        api::rows(),
        b::rows(),
        localhost::rows(),
        c::rows(),
        pods::rows(),
        d::rows(),
        firewall::rows(),
        e::rows(),
        segments::rows(),
        f::rows(),
        g::rows(),
        conntrack::rows(),
        h::rows(),
        i::rows(),
        k::rows(),
        config::rows(),
        cleanup::rows(),
        rights::rows(),
        node::rows(),
        families::rows(),
        j::rows(),
    ];
    checks.group(
        rows.into_iter().flatten().collect(),
        World::start,
        World::explain,
    );
    checks.group(
        families::rows_without_ipv6(),
        World::without_ipv6,
        World::explain,
    );
    checks.finish()
}
