//! What the source makes of outages.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests::kube::{ADDRESS, Signer};

use super::told::{PROXY, SOON, Told, delete, port, service};
use crate::World;

/// How soon all has to be in line again when a server has come back.
const BACK: Duration = Duration::from_secs(2);

/// Slow is not dead.
pub(super) fn slow_server(world: &mut World) -> Result<()> {
    const DELAY: Duration = Duration::from_secs(5);
    let control = &world.control;
    let detour = control.detour()?;
    control.apply_yaml(&service("slow", 80))?;
    let mut told = Told::proxy(control, detour.address())?;
    detour.delay(DELAY);
    control.apply_yaml(&service("slow", 81))?;
    told.until(DELAY + BACK, |told| {
        told.has("Service default/slow", &port(81))
    })?;
    ensure!(told.problems.is_empty(), "{:?}", told.problems);
    // From the beginning, too.
    let mut told = Told::start(control, control.kubeconfig(PROXY, None, detour.address())?)?;
    told.until(8 * DELAY, |told| {
        told.has("Service default/slow", &port(81))
    })?;
    detour.delay(Duration::ZERO);
    control.apply_yaml(&service("slow", 82))?;
    told.until(BACK, |told| told.has("Service default/slow", &port(82)))
}

/// A server that says nothing is noticed, and back in no time.
pub(super) fn silent_server(world: &mut World) -> Result<()> {
    let control = &world.control;
    let detour = control.detour()?;
    control.apply_yaml(&service("silent", 80))?;
    let mut told = Told::proxy(control, detour.address())?;
    told.until_has("Service default/silent", &port(80))?;
    detour.black_hole(true);
    control.apply_yaml(&service("silent", 81))?;
    told.until_problem(Duration::from_secs(60), "has not answered since")?;
    ensure!(told.gone == ["Node"], "lost: {:?}", told.gone);
    detour.black_hole(false);
    told.until(BACK, |told| told.has("Service default/silent", &port(81)))?;
    told.until_well(BACK)
}

/// A connection that breaks is no trouble at all.
pub(super) fn connection_cut(world: &mut World) -> Result<()> {
    let control = &world.control;
    let detour = control.detour()?;
    control.apply_yaml(&service("cut", 80))?;
    let mut told = Told::proxy(control, detour.address())?;
    told.until_has("Service default/cut", &port(80))?;
    detour.cut();
    control.apply_yaml(&service("cut", 81))?;
    told.until(BACK, |told| told.has("Service default/cut", &port(81)))?;
    ensure!(told.gone == ["Node"], "lost: {:?}", told.gone);
    told.until_well(BACK)
}

/// The server is away and comes back with another history; meanwhile one Service went and another
/// came.
pub(super) fn killed_and_compacted(world: &mut World) -> Result<()> {
    let control = &mut world.control;
    let detour = control.detour()?;
    control.apply_yaml(&(service("stays", 80) + &service("goes", 80)))?;
    // One watches by a way that opens again only after the change.
    let mut told = Told::proxy(control, ADDRESS)?;
    let mut late = Told::proxy(control, detour.address())?;
    for told in [&mut told, &mut late] {
        told.until_has("Service default/stays", &port(80))?;
        told.until_has("Service default/goes", &port(80))?;
        told.gone.clear();
    }
    detour.black_hole(true);
    detour.cut();
    control.kill_api_server();
    told.until_problem(SOON, "has not answered since")?;
    ensure!(told.gone.is_empty(), "lost: {:?}", told.gone);
    control.start_api_server()?;
    delete(control, "service", "goes")?;
    control.apply_yaml(&service("comes", 80))?;
    told.until(BACK, |told| told.has("Service default/comes", &port(80)))?;
    control.compact_etcd()?;
    control.kill_api_server();
    control.start_api_server()?;
    detour.black_hole(false);
    for told in [&mut told, &mut late] {
        told.until(BACK, |told| told.has("Service default/comes", &port(80)))?;
        told.until_gone("Service default/goes")?;
        told.until_well(BACK)?;
        ensure!(told.gone == ["Service default/goes"], "{:?}", told.gone);
    }
    Ok(())
}

/// A new authority is trusted as soon as the files say so; until then what is known stays.
pub(super) fn certificate_replaced(world: &mut World) -> Result<()> {
    let control = &mut world.control;
    control.apply_yaml(&service("trust", 80))?;
    let account = control.account("default", "source")?;
    let mut told = Told::start(control, account.kubeconfig(ADDRESS)?)?;
    told.until_has("Service default/trust", &port(80))?;
    told.gone.clear();
    control.replace_certificate(Signer::New)?;
    control.kill_api_server();
    control.start_api_server()?;
    told.until_problem(SOON, "UnknownIssuer")?;
    ensure!(told.gone.is_empty(), "lost: {:?}", told.gone);
    control.apply_yaml(&service("trust", 81))?;
    let renewed = control.account("default", "source")?;
    ensure!(renewed.dir() == account.dir(), "not the same files");
    let asked = Instant::now();
    told.until(BACK, |told| told.has("Service default/trust", &port(81)))
        .with_context(|| format!("{:?} after the files changed", asked.elapsed()))?;
    told.until_well(BACK)
}
