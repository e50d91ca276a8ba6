//! Running steps on a kernel: in a guest of QEMU, or on this machine.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::{
    console::{StepRun, Transcript, Word},
    plan::Step,
    programs::Programs,
    progress::Progress,
};
use crate::{
    exec::{command_line, output, program, root},
    static_build::Arch,
};

/// How long a guest may take from its start to the first step.
const BOOT_LIMIT: Duration = Duration::from_mins(2);

/// Memory of a guest. Its files are in it, several times over while it unpacks them.
const MEMORY: &str = "3G";

/// NICs of a guest by model, and how many: a bond of two for each of three hosts, and one for each.
const NICS: [(&str, usize); 2] = [("virtio-net-pci", 6), ("e1000e", 3)];

/// Joins all NICs of a guest by a bridge, in a network namespace that goes with QEMU. Taps, for nothing else lets packets
/// through whose checksums and segments are left to NICs.
const JOIN: &str = r#"
set -e
echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6
ip link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0
for tap in $1; do
    ip tuntap add "$tap" mode tap
    ip link set "$tap" mtu 9000 master br0 up
done
ip link set br0 up
shift
exec "$@"
"#;

/// A guest to be.
pub(super) struct Guest<'a> {
    pub(super) arch: Arch,
    pub(super) image: &'a Path,
    pub(super) initrd: &'a Path,
    pub(super) cpus: u32,
    /// Whether it has NICs of several drivers, all on one network.
    pub(super) has_nics: bool,
    /// Where all that it says is kept, for people.
    pub(super) log: &'a Path,
}

impl Guest<'_> {
    /// QEMU translates (TCG): `/dev/kvm` is not to be had on every machine, and a guest of another CPU never has it.
    ///
    /// `setpriv` ends it with us, whatever ends us.
    fn command(&self) -> Command {
        let Self {
            arch,
            image,
            initrd,
            cpus,
            has_nics,
            log: _,
        } = self;
        let (emulator, machine, console) = match arch {
            Arch::Amd64 => ("qemu-system-x86_64", ["q35", "max"], "ttyS0"),
            // Signing pointers as the hardware does would take most of the time.
            Arch::Arm64 => (
                "qemu-system-aarch64",
                ["virt", "max,pauth-impdef=on"],
                "ttyAMA0",
            ),
        };
        let [machine, cpu] = machine;
        let nics = if *has_nics { nics() } else { Vec::new() };
        let mut command = program("setpriv");
        command.args(["--pdeathsig", "KILL", "nice", "-n", "10"]);
        if !nics.is_empty() {
            let taps: Vec<_> = (0..nics.len()).map(tap).collect();
            command.args(["unshare", "--net", "sh", "-c", JOIN, "sh", &taps.join(" ")]);
        }
        command
            .arg(emulator)
            .args([
                "-machine",
                machine,
                "-cpu",
                cpu,
                "-accel",
                "tcg,thread=multi",
            ])
            .args(["-m", MEMORY, "-smp", &cpus.to_string()])
            .args(["-nographic", "-no-reboot", "-nic", "none"])
            .args(nics.iter().flatten())
            .arg("-kernel")
            .arg(image)
            .arg("-initrd")
            .arg(initrd)
            .arg("-append")
            .arg(format!(
                "console={console} panic=-1 quiet loglevel=4 mitigations=off"
            ));
        command
    }

    /// Boots it and runs the steps that its file system lists; all that it said.
    pub(super) fn run(&self, steps: &[Step], progress: &Progress) -> Result<Transcript> {
        let steps_limit: Duration = steps.iter().map(|step| step.limit).sum();
        let mut command = self.command();
        let running = Running::start(&mut command)?;
        let deadline = Instant::now() + BOOT_LIMIT + steps_limit;
        let mut transcript = Transcript::default();
        let log = File::create(self.log);
        let mut log = log.with_context(|| format!("cannot write {}", self.log.display()))?;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match running.lines.recv_timeout(left) {
                Ok(line) => {
                    writeln!(log, "{line}")
                        .with_context(|| format!("cannot write {}", self.log.display()))?;
                    if let Some(word) = transcript.add(&line) {
                        follow(&word, &transcript, progress);
                    }
                }
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    let late = format!("it was ended after {:?}", BOOT_LIMIT + steps_limit);
                    transcript.add(&late);
                    break;
                }
            }
        }
        Ok(transcript)
    }
}

/// QEMU's options for each NIC. Without a ROM, for no guest boots from the network.
fn nics() -> Vec<[String; 4]> {
    let models = NICS
        .iter()
        .flat_map(|(model, count)| std::iter::repeat_n(model, *count));
    models
        .enumerate()
        .map(|(number, model)| {
            let tap = tap(number);
            [
                "-netdev".to_owned(),
                format!("tap,id={tap},ifname={tap},script=no,downscript=no"),
                "-device".to_owned(),
                format!("{model},netdev={tap},mac=52:54:00:fa:17:{number:02x},romfile="),
            ]
        })
        .collect()
}

fn tap(number: usize) -> String {
    format!("tap{number}")
}

/// A program whose lines come one by one. Dropped, it is killed and waited for.
struct Running {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Running {
    fn start(command: &mut Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start `{}`", command_line(command)))?;
        let (sender, lines) = mpsc::channel();
        let outputs = [
            child
                .stdout
                .take()
                .map(|it| Box::new(it) as Box<dyn std::io::Read + Send>),
            child
                .stderr
                .take()
                .map(|it| Box::new(it) as Box<dyn std::io::Read + Send>),
        ];
        for pipe in outputs.into_iter().flatten() {
            let sender = sender.clone();
            thread::spawn(move || {
                for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
                    let line = String::from_utf8_lossy(&line).into_owned();
                    if sender.send(line).is_err() {
                        return;
                    }
                }
            });
        }
        Ok(Self { child, lines })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only if it is gone already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Lets people see how far it is.
fn follow(word: &Word, transcript: &Transcript, progress: &Progress) {
    match word {
        Word::Booted {
            release, seconds, ..
        } => progress.say(&format!("booted {release} in {seconds:.1} s")),
        Word::Lacks(module) => progress.say(&format!("it has no module {module}")),
        Word::Begin(step) => progress.say(&format!("running {step}")),
        Word::Line(line) if is_failure(line) => progress.say(line),
        Word::Line(_) | Word::Kernel(_) => {}
        Word::End {
            step,
            code,
            seconds,
        } => {
            let lines = transcript.steps.last().map(|step| step.lines.as_slice());
            let last = lines.unwrap_or_default().iter().rfind(|it| !it.is_empty());
            let last = last.map_or("", String::as_str);
            progress.say(&format!("{step}: exit {code} after {seconds:.1} s: {last}"));
        }
        Word::Done => progress.say("done"),
    }
}

/// Whether a line of a step's output is worth a look at once.
fn is_failure(line: &str) -> bool {
    line.starts_with("test ") && line.ends_with(" FAILED")
}

/// Runs steps on this machine's own kernel.
pub(super) fn run_here(
    programs: &Programs,
    steps: &[Step],
    progress: &Progress,
) -> Result<Transcript> {
    let mut transcript = Transcript {
        release: output(program("uname").arg("-r"))?,
        cpus: u32::try_from(thread::available_parallelism()?.get())?,
        ..Transcript::default()
    };
    for step in steps {
        progress.say(&format!("running {}", step.name));
        let run = run_step(programs, step)?;
        let word = Word::End {
            step: run.step.clone(),
            code: run.code.unwrap_or(-1),
            seconds: run.seconds,
        };
        transcript.steps.push(run);
        follow(&word, &transcript, progress);
    }
    transcript.done = true;
    Ok(transcript)
}

fn run_step(programs: &Programs, step: &Step) -> Result<StepRun> {
    let begun = Instant::now();
    let mut command = Command::new("timeout");
    command
        .args(["-s", "KILL", &step.limit.as_secs().to_string()])
        .arg(programs.path(&step.program))
        .args(&step.arguments)
        .current_dir(root().join("tests"))
        .env("INSTA_WORKSPACE_ROOT", root())
        .env("INSTA_UPDATE", "no");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", step.program))?;
    let mut text = Vec::new();
    match &mut child.stdout {
        Some(stdout) => stdout.read_to_end(&mut text)?,
        None => bail!("{} has no output", step.program),
    };
    let code = child.wait()?.code();
    Ok(StepRun {
        step: step.name.clone(),
        code: Some(code.unwrap_or(-1)),
        seconds: begun.elapsed().as_secs_f64(),
        lines: String::from_utf8_lossy(&text)
            .lines()
            .map(str::to_owned)
            .collect(),
        kernel: Vec::new(),
    })
}
