//! Services and pods that change while traffic runs.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lb_userspace::status::Mode;
use tests::{
    agent,
    checks::Check,
    cluster::{Target, eventually},
    echo::Protocol,
    patience::patient,
    talk::Conversation,
    topology::{Family, pod_addresses},
};

use crate::{Question, World, kinds};

/// How soon a changed manifest has to have taken effect, on a busy machine.
const SOON: Duration = Duration::from_secs(5);
/// `web` of the examples, at node-a.
const WEB: Target = Target {
    v4: "10.10.0.1",
    v6: "fd00:10::1",
    port: 30080,
};

pub(crate) fn checks(group: &str) -> Vec<Check<World>> {
    vec![
        Check::new(
            format!("{group}::service_comes_changes_and_goes"),
            service_comes_and_goes,
        ),
        Check::new(
            format!("{group}::bad_manifest_leaves_what_was_in_force"),
            bad_manifest,
        ),
        Check::new(format!("{group}::c22_g2_backend_leaves"), backend_leaves),
        Check::new(format!("{group}::pod_comes_and_goes"), pod_comes_and_goes),
    ]
}

/// A Service for pod-1, on a node port.
fn late(node_port: u16) -> String {
    format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: late}}, spec: {{type: NodePort, \
         ipFamilyPolicy: PreferDualStack, clusterIP: 10.96.2.1, clusterIPs: [10.96.2.1, \"fd00:96::201\"], \
         selector: {{pod: pod-1}}, ports: [{{port: 80, targetPort: 8080, nodePort: {node_port}}}]}}}}\n"
    )
}

fn service_comes_and_goes(world: &mut World) -> Result<()> {
    let question = |family, port| -> Result<Question> {
        let to = Target { port, ..WEB }.of(family)?;
        Ok(Question {
            from: "client",
            protocol: Protocol::Tcp,
            to,
        })
    };
    let serves = |world: &World, port| {
        Family::BOTH.into_iter().try_for_each(|family| {
            eventually(SOON, || world.ask(question(family, port)?)).map(drop)
        })
    };
    let refuses = |world: &World, port| {
        Family::BOTH.into_iter().try_for_each(|family| {
            eventually(SOON, || match world.ask(question(family, port)?) {
                Ok(answer) => bail!("still served by {}", answer.server),
                Err(_) => Ok(()),
            })
        })
    };
    world.cluster.source.write("late.yaml", &late(30101))?;
    serves(world, 30101)?;
    world.cluster.source.write("late.yaml", &late(30102))?;
    serves(world, 30102)?;
    refuses(world, 30101)?;
    world.cluster.source.remove("late.yaml")?;
    refuses(world, 30102)
}

fn bad_manifest(world: &mut World) -> Result<()> {
    let good = world.cluster.source.read("web.yaml")?;
    let reported = |world: &World| -> Result<bool> {
        Ok(world
            .status("node-a")?
            .problems
            .iter()
            .any(|line| line.contains("web.yaml")))
    };
    world
        .cluster
        .source
        .write("web.yaml", "kind: Service\n  bad: [")?;
    eventually(SOON, || {
        reported(world)?
            .then_some(())
            .context("the file is not named")
    })?;
    for (family, protocol) in kinds() {
        let to = WEB.of(family)?;
        world.ask(Question {
            from: "client",
            protocol,
            to,
        })?;
    }
    world.cluster.source.write("web.yaml", &good)?;
    eventually(SOON, || {
        (!reported(world)?)
            .then_some(())
            .context("still reported as a problem")
    })
}

/// A backend is scaled away: its TCP connections drain, its UDP flows move, new flows avoid it.
fn backend_leaves(world: &mut World) -> Result<()> {
    let manifest = world.cluster.source.read("pod-3.yaml")?;
    for family in Family::BOTH {
        let mut tcp = flow_to(world, "pod-3", Protocol::Tcp, family)?;
        let mut udp = flow_to(world, "pod-3", Protocol::Udp, family)?;
        world.cluster.source.remove("pod-3.yaml")?;
        let asked = Instant::now();
        let moved = loop {
            let answer = udp.ask().context("the UDP flow was cut")?;
            if answer.server != "pod-3" {
                break answer.server;
            }
            ensure!(asked.elapsed() < SOON, "the UDP flow stays with pod-3");
        };
        ensure!(
            ["pod-1", "pod-2"].contains(&moved.as_str()),
            "{moved} took the UDP flow"
        );
        let answer = tcp.ask().context("the TCP connection was cut")?;
        ensure!(
            answer.server == "pod-3",
            "{} took over a TCP connection",
            answer.server
        );
        for protocol in Protocol::BOTH.repeat(15) {
            let answer = world.ask(Question {
                from: "client",
                protocol,
                to: WEB.of(family)?,
            })?;
            ensure!(answer.server != "pod-3", "a new flow went to pod-3");
        }
        world.cluster.source.write("pod-3.yaml", &manifest)?;
        eventually(SOON, || flow_to(world, "pod-3", Protocol::Tcp, family))?;
    }
    Ok(())
}

/// A flow from the client through `web` to the given pod: chance decides, so ask until it does.
fn flow_to(world: &World, pod: &str, protocol: Protocol, family: Family) -> Result<Conversation> {
    // Two thirds to the 40th power is less than one in ten million.
    for _ in 0..40 {
        let mut flow = world.open(Question {
            from: "client",
            protocol,
            to: WEB.of(family)?,
        })?;
        if flow.ask()?.server == pod {
            return Ok(flow);
        }
    }
    bail!("{pod} is never chosen")
}

/// The interface of each new pod is attached within 100 ms of being there; when the pod goes, so do
/// the links.
fn pod_comes_and_goes(world: &mut World) -> Result<()> {
    const PODS: [(u8, &str); 3] = [(10, "pod-10"), (11, "pod-11"), (12, "pod-12")];
    let mut worst = Duration::ZERO;
    for (number, pod) in PODS {
        world
            .cluster
            .add_pod(pod, "node-a", pod_addresses(1, number))?;
        let start = Instant::now();
        eventually(SOON, || {
            let attached = is_attached(world, pod)?;
            attached.then_some(()).context("never attached")
        })?;
        worst = worst.max(start.elapsed());
        let to = Target {
            v4: "10.96.0.10",
            v6: "fd00:96::10",
            port: 80,
        };
        for (family, protocol) in kinds() {
            let question = Question {
                from: pod,
                protocol,
                to: to.of(family)?,
            };
            eventually(SOON, || world.ask(question)).context("a new pod reaches no service")?;
        }
    }
    for (_, pod) in PODS {
        world.cluster.remove_pod(pod)?;
        eventually(SOON, || {
            let attached = is_attached(world, pod)?;
            (!attached).then_some(()).context("not forgotten")
        })?;
    }
    ensure!(
        worst < patient(Duration::from_millis(100)),
        "attached after {worst:?} at worst"
    );
    Ok(())
}

/// Whether node-a's agent says that the pod's interface has its programs, by tcx links or by filters.
fn is_attached(world: &World, pod: &str) -> Result<bool> {
    let status = agent::status(&world.cluster.topology.node_a)?;
    let name = format!("veth-{pod}");
    let interface = status.interfaces.iter().find(|it| it.name == name);
    Ok(interface.is_some_and(|it| it.mode == Mode::Tc))
}
