//! Who answers for the probed Service.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use super::objects;
use crate::echo::Answer;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_millis(20);
/// The shortest and the longest pause between two questions.
const PAUSES: (Duration, Duration) = (Duration::from_micros(250), Duration::from_millis(5));
/// In between, a pause is this part of the time that has passed: what it takes is known to 1 %.
const FINENESS: u32 = 100;
/// The source ports, which take their turns: nothing remembers a flow until its port comes again.
const FIRST_PORT: u16 = 10_000;

/// Asks the probed Service, each time by another flow.
#[derive(Debug)]
pub(super) struct Prober {
    port: u16,
}

impl Prober {
    /// To be used in a pod's namespace.
    pub(super) const fn new() -> Self {
        Self { port: FIRST_PORT }
    }

    /// Asks until a server answers that is `wanted`; when it did, if that was before `deadline`.
    pub(super) fn until(
        &mut self,
        deadline: Instant,
        wanted: impl Fn(&str) -> bool,
    ) -> Option<Instant> {
        let began = Instant::now();
        loop {
            // Before there is a service, questions are lost or refused.
            let answered = self.ask().is_ok_and(|answer| wanted(&answer.server));
            let now = Instant::now();
            if answered {
                return Some(now);
            }
            if now > deadline {
                return None;
            }
            let (shortest, longest) = PAUSES;
            thread::sleep(((now - began) / FINENESS).clamp(shortest, longest));
        }
    }

    fn ask(&mut self) -> io::Result<Answer> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, self.port))?;
        self.port = self.port.checked_add(1).unwrap_or(FIRST_PORT);
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.connect(SocketAddr::from((objects::ADDRESS, objects::PORT)))?;
        socket.send(b"who\n")?;
        let mut datagram = [0; 256];
        let length = socket.recv(&mut datagram)?;
        Ok(serde_json::from_slice(&datagram[..length])?)
    }
}
