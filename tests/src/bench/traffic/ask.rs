//! The clients: one thing over and over for a while, on one thread.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use rustix::net::{self, AddressFamily, SocketType, socket};

use super::{
    contestant::Measure,
    cpu::{self, Cpu},
    figures::Run,
    serve::{BULK, DATAGRAMS, MESSAGE, OFTEN, ONCE, PIECE},
};
use crate::{
    netns::Netns,
    talk::{connected, patience},
};

/// How long a run is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    /// At first, not measured.
    pub(super) warm_up: Duration,
    /// Then, measured.
    pub(super) length: Duration,
}

/// How many sockets are connected between two looks at the clock.
const CONNECTS: u32 = 64;
const FROM: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// Does this in a namespace, asking whoever serves at `to`.
pub(super) fn ask(netns: &Netns, measure: Measure, to: Ipv4Addr, span: Span) -> Result<Run> {
    let at = |port| SocketAddr::from((to, port));
    let ask = || -> Result<Run> {
        cpu::pin(Cpu::CLIENT)?;
        let run = match measure {
            Measure::ConnectClose => connect_close(at(ONCE), span),
            Measure::KeepAlive => keep_alive(at(OFTEN), span),
            Measure::Bulk => bulk(at(BULK), span),
            Measure::Datagrams => datagrams(at(DATAGRAMS), span),
            Measure::Connect => connect(at(DATAGRAMS), span),
            Measure::NodePort => anyhow::bail!("a node port is not asked but flooded"),
        };
        run.with_context(|| format!("asking {to}"))
    };
    netns.run(ask)?
}

/// Does it for a while, each time as soon as the last one is done.
fn repeat(span: Span, mut once: impl FnMut() -> io::Result<()>) -> io::Result<Run> {
    let warm = Instant::now() + span.warm_up;
    while Instant::now() < warm {
        once()?;
    }
    let mut taken = Vec::with_capacity(1 << 17);
    let began = Instant::now();
    let mut last = began;
    while last - began < span.length {
        once()?;
        let now = Instant::now();
        taken.push(now - last);
        last = now;
    }
    Ok(Run::of_each(&taken))
}

fn connect_close(to: SocketAddr, span: Span) -> io::Result<Run> {
    let mut message = [0; MESSAGE];
    repeat(span, || {
        let mut stream = TcpStream::from(connected(SocketType::STREAM, to, FROM, patience())?);
        stream.write_all(&message)?;
        stream.read_exact(&mut message)?;
        match stream.read(&mut [0])? {
            0 => Ok(()),
            _ => Err(io::Error::other("more was answered than was asked for")),
        }
    })
}

fn keep_alive(to: SocketAddr, span: Span) -> io::Result<Run> {
    let mut stream = TcpStream::from(connected(SocketType::STREAM, to, FROM, patience())?);
    stream.set_nodelay(true)?;
    let mut message = [0; MESSAGE];
    repeat(span, || {
        stream.write_all(&message)?;
        stream.read_exact(&mut message)
    })
}

fn datagrams(to: SocketAddr, span: Span) -> io::Result<Run> {
    let socket = UdpSocket::from(connected(SocketType::DGRAM, to, FROM, patience())?);
    let mut message = [0; MESSAGE];
    repeat(span, || {
        socket.send(&message)?;
        socket.recv(&mut message).map(drop)
    })
}

fn bulk(to: SocketAddr, span: Span) -> io::Result<Run> {
    let mut stream = TcpStream::from(connected(SocketType::STREAM, to, FROM, patience())?);
    let mut piece = vec![0; PIECE];
    let mut read = || match stream.read(&mut piece)? {
        0 => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
        length => Ok(length as u64),
    };
    let warm = Instant::now() + span.warm_up;
    while Instant::now() < warm {
        read()?;
    }
    let began = Instant::now();
    let mut bytes = 0;
    while began.elapsed() < span.length {
        bytes += read()?;
    }
    Ok(Run::of_bytes(bytes, began.elapsed()))
}

/// The thread's own time is taken: there is nobody to wait for.
fn connect(to: SocketAddr, span: Span) -> io::Result<Run> {
    let connect = || -> io::Result<()> {
        for _ in 0..CONNECTS {
            let socket = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
            net::connect(&socket, &to)?;
        }
        Ok(())
    };
    let warm = Instant::now() + span.warm_up;
    while Instant::now() < warm {
        connect()?;
    }
    let (began, before) = (Instant::now(), cpu::own_time());
    let mut count = 0;
    while began.elapsed() < span.length {
        connect()?;
        count += CONNECTS;
    }
    Ok(Run::of_cpu(
        count.into(),
        cpu::own_time().saturating_sub(before),
    ))
}
