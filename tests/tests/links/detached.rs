//! What is detached is off at once, whatever holds it.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use aya::{
    EbpfLoader,
    programs::{SchedClassifier, TcAttachType, links::FdLink},
};
use lb_userspace::bpf;
use tests::{
    checks::Check,
    site::Site,
    topology::{Links, Topology},
};

const INTERFACE: &std::ffi::CStr = c"eth0";
const PLACE: TcAttachType = TcAttachType::Ingress;

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

fn off_at_once(topology: &Topology) -> Result<()> {
    let node = &topology.node_a;
    let pin = node.bpffs().join("link");
    node.netns.run(|| detached(&pin))?
}

fn detached(pin: &Path) -> Result<()> {
    let object = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bpf/fairlead-bench");
    let mut object = EbpfLoader::new().load_file(&object)?;
    let program = object.program_mut("nop_tc").context("no program")?;
    let program: &mut SchedClassifier = program.try_into()?;
    program.load()?;
    let link = program.attach(INTERFACE, PLACE)?;
    FdLink::try_from(program.take_link(link)?)?.pin(pin)?;
    ensure!(attached()? == 1, "it was not attached");
    bpf::detach(pin)?;
    ensure!(attached()? == 0, "it is still there");
    ensure!(pin.exists(), "its pin is the caller's to remove");
    Ok(())
}

fn attached() -> Result<usize> {
    let (_, programs) = SchedClassifier::query_tcx(INTERFACE, PLACE)?;
    Ok(programs.len())
}
