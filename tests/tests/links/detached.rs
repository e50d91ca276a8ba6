//! What is detached is off at once, whatever holds it.

use std::{ffi::CStr, path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use aya::{
    EbpfLoader,
    programs::{Xdp, XdpMode, links::FdLink},
};
use lb_userspace::bpf;
use serde_json::Value;
use tests::{
    checks::Check,
    netns::Netns,
    site::Site,
    topology::{Links, Topology},
};

const INTERFACE: &CStr = c"eth0";

pub(crate) fn checks() -> Vec<Check<Topology>> {
    vec![Check::new(
        "a_pinned_link_that_is_detached_leads_no_more",
        |topology| off_at_once(topology),
    )]
}

/// A topology without agents.
pub(crate) fn topology() -> Result<Topology> {
    Topology::build(Site::new()?, Links::STANDARD)
}

/// With a link of XDP, which all kernels have.
fn off_at_once(topology: &Topology) -> Result<()> {
    let node = &topology.node_a;
    let pin = node.bpffs().join("link");
    node.netns.run(|| attach(&pin))??;
    ensure!(is_attached(&node.netns)?, "it was not attached");
    bpf::detach(&pin)?;
    ensure!(!is_attached(&node.netns)?, "it is still there");
    ensure!(pin.exists(), "its pin is the caller's to remove");
    Ok(())
}

fn attach(pin: &Path) -> Result<()> {
    let object = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bpf/fairlead-bench");
    let mut object = EbpfLoader::new().load_file(&object)?;
    let program = object.program_mut("nop_xdp").context("no program")?;
    let program: &mut Xdp = program.try_into()?;
    program.load()?;
    let link = program.attach(INTERFACE, XdpMode::Driver)?;
    FdLink::try_from(program.take_link(link)?)?.pin(pin)?;
    Ok(())
}

fn is_attached(netns: &Netns) -> Result<bool> {
    let shown =
        netns.output(Command::new("ip").args(["-json", "link", "show", INTERFACE.to_str()?]))?;
    let links: Value = serde_json::from_slice(&shown.stdout)?;
    Ok(!links[0]["xdp"].is_null())
}
