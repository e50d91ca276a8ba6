//! `lbctl explain`: what would become of a packet, as the loaded programs decide it.
//!
//! The programs answer ([`ask`]) for a packet made for the question ([`packet`]) at the place it
//! would be seen ([`place`]). Where they would draw a backend they are asked once for each
//! ([`inquiry`]), so that the answer ([`report`]) is the whole of it.

mod ask;
mod inquiry;
mod packet;
mod place;
mod report;
mod route;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};

use clap::{Args as Arguments, ValueEnum};

use self::{
    ask::Oracle,
    inquiry::Inquiry,
    packet::Tuple,
    place::{Hook, Known, Wish},
    report::Report,
};
use super::{Error, collect::Collector, output::Format, pinned::PinnedMaps};
use crate::model::Protocol;

const EXAMPLES: &str = "\
The programs in the kernel are run on a packet that begins a connection; nothing of it leaves the
machine, and nothing in the maps changes. VERDICT is forward, reject, drop or pass (not ours; the
stack takes it). Where a backend would be drawn, all that could be are listed.

HOOK is where the packet is seen: pod (a pod's interface), external (an interface toward clients and
other nodes) or host (a process of the node connects). Without --hook it follows from the interface
or, if none is named, from the route to the source.

With a source port (10.0.0.5:40000, [fd00::5]:40000) a flow that is in the table already is found.

The exit status is 0 whatever the verdict, 1 if there is no answer, 2 if the question is wrong.

Examples:
  lbctl explain --from 10.0.1.5 --to 10.96.0.10:80
  lbctl explain --from 198.51.100.7%eth0 --to 192.0.2.1:30080 --proto udp
  lbctl explain --from '[fd00:1::5]:40000%pod0' --to '[fd00:96::10]:53' --proto udp -o json
  lbctl explain --from 127.0.0.1 --to 10.96.0.1:443 -o json | jq -r .verdict";

/// Says what would become of a packet: its service and backends, and what its source becomes.
#[derive(Debug, Arguments)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Who sends it, from which port, seen on which interface; the last two may be left out.
    #[arg(long, value_name = "IP[:PORT][%IFACE]", value_parser = parse_source)]
    from: Source,
    /// The address and port it is sent to.
    #[arg(long, value_name = "IP:PORT", value_parser = parse_target)]
    to: SocketAddr,
    /// What they speak.
    #[arg(long, value_enum, default_value_t)]
    proto: Proto,
    /// Where it is seen.
    #[arg(long, value_enum)]
    hook: Option<Hook>,
    /// How to show the answer.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// `--proto`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Proto {
    #[default]
    Tcp,
    Udp,
    Sctp,
}

impl From<Proto> for Protocol {
    fn from(proto: Proto) -> Self {
        match proto {
            Proto::Tcp => Self::Tcp,
            Proto::Udp => Self::Udp,
            Proto::Sctp => Self::Sctp,
        }
    }
}

/// `--from`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Source {
    address: IpAddr,
    port: Option<u16>,
    interface: Option<String>,
}

fn parse_source(text: &str) -> Result<Source, String> {
    let (address, interface) = match text.rsplit_once('%') {
        Some((_, "")) => return Err("there is no interface behind the `%`".to_owned()),
        Some((address, interface)) => (address, Some(interface.to_owned())),
        None => (text, None),
    };
    let (address, port) = if let Ok(address) = address.parse::<IpAddr>() {
        (address, None)
    } else {
        let at: SocketAddr = address.parse().map_err(|_| {
            "not an address, or address and port: as 10.0.0.5, 10.0.0.5:40000%eth0, fd00::5 or \
             [fd00::5]:40000"
                .to_owned()
        })?;
        (at.ip(), Some(nonzero(at.port())?))
    };
    Ok(Source {
        address: address.to_canonical(),
        port,
        interface,
    })
}

fn parse_target(text: &str) -> Result<SocketAddr, String> {
    let at: SocketAddr = text.parse().map_err(|_| {
        "not an address and a port from 1 to 65535: as 10.96.0.10:80 or [fd00:96::10]:80".to_owned()
    })?;
    Ok(SocketAddr::new(at.ip().to_canonical(), nonzero(at.port())?))
}

fn nonzero(port: u16) -> Result<u16, String> {
    if port == 0 {
        return Err("ports are from 1 to 65535".to_owned());
    }
    Ok(port)
}

impl Args {
    pub(super) fn run(
        &self,
        maps: impl FnOnce() -> Result<PinnedMaps, Error>,
    ) -> Result<String, Error> {
        let tuple = self.tuple();
        let frame = tuple.frame().ok_or_else(|| {
            Error::Usage("--from and --to are of different address families".to_owned())
        })?;
        let maps = maps()?;
        let status = maps.status()?.unwrap_or_default();
        let known = Known {
            interfaces: &status.interfaces,
            index: &route::index,
            route: &route::to,
        };
        let wish = Wish {
            source: self.from.address,
            interface: self.from.interface.as_deref(),
            hook: self.hook,
        };
        let place = place::find(wish, &known)?;
        let collector = Collector::new(&maps)?;
        let inquiry = Inquiry {
            oracle: Oracle::open(&maps, &place)?,
            tuple,
            from_port: self.from.port,
            frame,
            snat_ports: collector.config()?.snat_ports,
        };
        let found = inquiry.make(&maps)?;
        let report = Report::new(&tuple, self.from.port, place, found, &collector, &status);
        self.output.render(&report, report::render)
    }

    fn tuple(&self) -> Tuple {
        Tuple {
            // No connection is from port 0, so none of the flows there are is met.
            from: (self.from.address, self.from.port.unwrap_or(0)),
            to: (self.to.ip(), self.to.port()),
            protocol: self.proto.into(),
        }
    }
}
