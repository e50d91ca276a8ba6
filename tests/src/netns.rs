//! Network namespaces, and running things inside them.

use std::{
    fs::{self, File},
    os::fd::AsFd,
    panic::resume_unwind,
    process::{Child, Command, Output},
    thread,
};

use anyhow::{Context, Result};
use rustix::{
    net::{AddressFamily, SocketType, netdevice::name_to_index, socket},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use crate::{command, site};

/// What an interface has received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// In bytes.
    pub bytes: u64,
    /// In packets.
    pub packets: u64,
}

/// The index of an interface in the namespace of the calling thread.
pub fn interface_index(interface: &str) -> Result<u32> {
    // A socket belongs to the namespace of its thread; sysfs to that of its mount.
    let socket = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    name_to_index(socket, interface).with_context(|| format!("there is no interface {interface}"))
}

/// A named network namespace, as `ip netns` has them. It is removed with its [`site::Site`].
#[derive(Debug)]
pub struct Netns {
    name: String,
    file: File,
}

impl Netns {
    /// Makes the namespace.
    pub fn create(name: String) -> Result<Self> {
        let _making = site::making();
        command::run(Command::new("ip").args(["netns", "add", &name]))?;
        let path = format!("/run/netns/{name}");
        let file = File::open(&path).with_context(|| format!("cannot open {path}"))?;
        Ok(Self { name, file })
    }

    /// Its name, for `ip netns exec`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Another handle to the same namespace.
    pub fn try_clone(&self) -> Result<Self> {
        let file = self
            .file
            .try_clone()
            .context("cannot duplicate a file descriptor")?;
        let name = self.name.clone();
        Ok(Self { name, file })
    }

    /// Removes the namespace with all its interfaces, before its site goes.
    pub fn remove(self) -> Result<()> {
        command::run(Command::new("ip").args(["netns", "del", &self.name]))?;
        Ok(())
    }

    /// Runs `f` on a thread inside the namespace. Sockets made there stay of the namespace
    /// wherever they are used.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T> {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.enter()?;
                Ok(f())
            });
            thread.join().unwrap_or_else(|panic| resume_unwind(panic))
        })
    }

    /// Takes the calling thread inside, for good.
    pub(crate) fn enter(&self) -> Result<()> {
        move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))
            .with_context(|| format!("cannot enter network namespace {}", self.name))
    }

    /// Starts a program inside the namespace; mounts and everything else stay the caller's.
    pub fn spawn(&self, command: &mut Command) -> Result<Child> {
        let _making = site::making();
        self.run(|| command.spawn())?
            .with_context(|| format!("cannot run {}", command.get_program().display()))
    }

    /// Runs a program inside the namespace to its end; any exit code but 0 is an error.
    pub fn output(&self, command: &mut Command) -> Result<Output> {
        let _making = site::making();
        self.run(|| command::run(command))?
    }

    /// Runs lines of `ip` commands (as `ip -batch` takes them) inside the namespace.
    pub fn ip(&self, lines: &str) -> Result<()> {
        let _making = site::making();
        command::feed(
            Command::new("ip").args(["-n", &self.name, "-batch", "-"]),
            lines,
        )
        .with_context(|| format!("in network namespace {}, running\n{lines}", self.name))?;
        Ok(())
    }

    /// Has the namespace forget what it has learned of paths: their MTUs.
    pub fn forget_paths(&self) -> Result<()> {
        for family in ["-4", "-6"] {
            let mut ip = Command::new("ip");
            self.output(ip.args([family, "route", "flush", "cache"]))?;
        }
        Ok(())
    }

    /// Sets kernel parameters of the namespace, given like `net/ipv4/ip_forward`.
    pub fn sysctl(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.run(|| {
            settings.iter().try_for_each(|(key, value)| {
                fs::write(format!("/proc/sys/{key}"), value)
                    .with_context(|| format!("cannot set {key} in {}", self.name))
            })
        })?
    }

    /// What an interface has received so far.
    pub fn received(&self, interface: &str) -> Result<Received> {
        let devices = || fs::read_to_string("/proc/thread-self/net/dev");
        let devices = self.run(devices)??;
        let line = devices
            .lines()
            .find_map(|line| line.trim_start().strip_prefix(interface)?.strip_prefix(':'));
        let line = line.with_context(|| format!("{} has no {interface}", self.name))?;
        let mut numbers = line.split_whitespace().map(str::parse);
        let mut next = || Ok::<_, anyhow::Error>(numbers.next().context("a number is missing")??);
        Ok(Received {
            bytes: next()?,
            packets: next()?,
        })
    }

    /// Switches offloads of an interface, given as `ethtool -K` takes them.
    pub fn offload(&self, interface: &str, settings: &[&str]) -> Result<()> {
        self.output(
            Command::new("ethtool")
                .args(["-K", interface])
                .args(settings),
        )?;
        Ok(())
    }
}
