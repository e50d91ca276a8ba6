//! Packets to be sent, and what became of them.

use std::net::IpAddr;

use anyhow::{Context, Result};
use etherparse::{IpNumber, PacketBuilder};
use serde_json::Value;

/// The packet that was asked about, with checksums.
pub(crate) fn frame(answer: &Value) -> Result<Vec<u8>> {
    let address = |of: &Value| -> Result<IpAddr> {
        let text = of["address"].as_str().context("no address")?;
        Ok(text.parse()?)
    };
    let port = |of: &Value| of["port"].as_u64().map(|port| port as u16);
    let (from, to) = (&answer["from"], &answer["to"]);
    let ports = (port(from).unwrap_or(40_001), port(to).context("no port")?);
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let builder = match (address(from)?, address(to)?) {
        (IpAddr::V4(from), IpAddr::V4(to)) => builder.ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => builder.ipv6(from.octets(), to.octets(), 64),
        _ => anyhow::bail!("families are mixed"),
    };
    let mut bytes = Vec::new();
    match answer["protocol"].as_str() {
        Some("TCP") => builder
            .tcp(ports.0, ports.1, 1, 1000)
            .syn()
            .write(&mut bytes, &[])?,
        Some("SCTP") => builder.write(&mut bytes, IpNumber::SCTP, &init(ports))?,
        _ => builder.udp(ports.0, ports.1).write(&mut bytes, &[])?,
    }
    Ok(bytes)
}

/// An INIT chunk (RFC 9260, 3.3.2), behind a checksum that nobody looks at.
fn init((from, to): (u16, u16)) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[..2].copy_from_slice(&from.to_be_bytes());
    bytes[2..4].copy_from_slice(&to.to_be_bytes());
    bytes[12..].copy_from_slice(&[1, 0, 0, 20, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1]);
    bytes
}

/// Source address and port.
pub(crate) fn source(frame: &[u8]) -> Result<(IpAddr, u16)> {
    let [high, low, ..] = frame.get(transport(frame)..).context("too short")? else {
        anyhow::bail!("no port");
    };
    Ok((addresses(frame)?.0, u16::from_be_bytes([*high, *low])))
}

pub(crate) fn destination(frame: &[u8]) -> Result<IpAddr> {
    Ok(addresses(frame)?.1)
}

fn is_ipv4(frame: &[u8]) -> bool {
    frame[12..14] == [8, 0]
}

fn transport(frame: &[u8]) -> usize {
    if is_ipv4(frame) { 34 } else { 54 }
}

fn addresses(frame: &[u8]) -> Result<(IpAddr, IpAddr)> {
    let end = transport(frame);
    let length = if is_ipv4(frame) { 4 } else { 16 };
    let read = |start: usize| -> Result<IpAddr> {
        let octets = &frame[start..start + length];
        Ok(match length {
            4 => IpAddr::from(<[u8; 4]>::try_from(octets)?),
            _ => IpAddr::from(<[u8; 16]>::try_from(octets)?),
        })
    };
    Ok((read(end - 2 * length)?, read(end - length)?))
}
