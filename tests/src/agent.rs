//! The programs under test: `lb-agent` on a node, and `lbctl` beside it.

use std::{
    env, fmt, fs,
    fs::File,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::topology::Host;

/// How long an agent may take until it is ready.
const START: Duration = Duration::from_secs(20);
/// How long it may take to leave when asked to.
const STOP: Duration = Duration::from_secs(5);
/// What the agent says once everything is attached and the maps are in line with the manifests.
const READY: &str = "ready:";

/// A running agent. Dropped, it is killed and waited for; its programs and maps stay.
pub struct Agent {
    child: Option<Child>,
    log: PathBuf,
}

impl fmt::Debug for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { child, log } = self;
        f.debug_struct("Agent")
            .field("pid", &child.as_ref().map(Child::id))
            .field("log", log)
            .finish()
    }
}

impl Agent {
    /// Starts an agent on a node.
    pub fn launch(node: &Host, manifests: &Path) -> Result<Self> {
        let log = new_log(&node.dir, node.name)?;
        let errors =
            File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let child = node.netns.spawn(
            command_line(node, manifests)?
                .stdin(Stdio::null())
                .stdout(errors.try_clone()?)
                .stderr(errors)
                // A terminal's Ctrl-C is for us to answer.
                .process_group(0),
        )?;
        Ok(Self {
            child: Some(child),
            log,
        })
    }

    /// Waits until it is ready.
    pub fn wait_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + START;
        while !self.log().contains(READY) {
            let ended = self
                .child
                .as_mut()
                .map(Child::try_wait)
                .transpose()?
                .flatten();
            if let Some(status) = ended {
                bail!("lb-agent ended ({status}):\n{}", self.log());
            }
            if Instant::now() > deadline {
                bail!("lb-agent is not ready after {START:?}:\n{}", self.log());
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// What it has said so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Both fail only if it is gone already.
            child.kill().ok();
            child.wait().ok();
        }
    }

    /// Asks it to end and waits until it has.
    pub fn stop(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else {
            return Ok(());
        };
        rustix::process::kill_process(
            rustix::process::Pid::from_child(&child),
            rustix::process::Signal::TERM,
        )?;
        let deadline = Instant::now() + STOP;
        while child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                self.child = Some(child);
                bail!("lb-agent does not end when asked to:\n{}", self.log());
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Lets it run on after this process.
    pub fn keep(mut self) {
        drop(self.child.take());
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.kill();
    }
}

fn command_line(node: &Host, manifests: &Path) -> Result<Command> {
    let mut command = Command::new(program("lb-agent")?);
    command.arg("run").arg("--manifests").arg(manifests);
    command.args(["--node-name", node.name]);
    command.args(["--external-interface", "eth0"]);
    // The other ends of the topology's links run an XDP program, so veths are as good as others.
    command.args(["--xdp", "always"]);
    command.args(["--pod-interface", "veth-*"]);
    command.args(["--cluster-cidr", "10.1.0.0/16,fd00:1::/32"]);
    command.args(["--service-cluster-ip-range", "10.96.0.0/16,fd00:96::/112"]);
    match &node.cgroup {
        Some(cgroup) => command.arg("--cgroup").arg(cgroup),
        None => command.args(["--socket-lb", "off"]),
    };
    command.arg("--bpffs").arg(node.bpffs());
    command.arg("--state-dir").arg(node.dir.join("state"));
    Ok(command)
}

fn new_log(dir: &Path, node: &str) -> Result<PathBuf> {
    let number = fs::read_dir(dir)
        .with_context(|| format!("cannot read {}", dir.display()))?
        .count();
    Ok(dir.join(format!("{node}.{number}.log")))
}

/// Runs `lbctl` on a node's maps and returns what it prints.
pub fn lbctl(node: &Host, args: &[&str]) -> Result<String> {
    let mut command = Command::new(program("lbctl")?);
    command.arg("--bpffs").arg(node.bpffs()).args(args);
    let output = node.netns.output(&mut command)?;
    Ok(String::from_utf8(output.stdout)?)
}

/// Where a program of the workspace is: beside the running one, as cargo puts them.
pub fn program(name: &str) -> Result<PathBuf> {
    let own = env::current_exe().context("cannot tell where this program is")?;
    own.ancestors()
        .skip(1)
        .take(2)
        .map(|dir| dir.join(name))
        .find(|path| path.exists())
        .with_context(|| {
            format!(
                "{name} is not built beside {}: run `cargo build -p lb-userspace` first",
                own.display()
            )
        })
}
