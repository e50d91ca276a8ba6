//! Questions about interfaces that the kernel answers over generic netlink: what XDP the driver has
//! (family `netdev`, `Documentation/netlink/specs/netdev.yaml`), and which offloads are on (family
//! `ethtool`, `Documentation/networking/ethtool-netlink.rst`). Neither needs rights.

use std::{collections::BTreeSet, convert::Infallible, io};

use rtnetlink::{
    packet_core::{
        DefaultNla, Emitable as _, NLM_F_ACK, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader,
        NetlinkPayload, NetlinkSerializable, NlasIterator,
    },
    sys::protocols::NETLINK_GENERIC,
};

use crate::agent::netlink::Asker;

/// The family that tells the numbers of families, and its request.
const CONTROLLER: u16 = 16;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;

/// `NETDEV_CMD_DEV_GET`, and attributes of its question and answer.
const DEVICE_GET: u8 = 1;
const DEVICE_INDEX: u16 = 1;
const DEVICE_XDP_FEATURES: u16 = 3;

/// `ETHTOOL_MSG_FEATURES_GET`, and attributes of its question and answer.
const FEATURES_GET: u8 = 11;
const FEATURES_HEADER: u16 = 1;
const HEADER_INDEX: u16 = 1;
const FEATURES_ACTIVE: u16 = 4;
const BITSET_BITS: u16 = 3;
const BIT_NAME: u16 = 2;

/// `NLA_F_NESTED`
const NESTED: u16 = 1 << 15;

/// A message: the command, a version, two bytes of nothing, and attributes.
#[derive(Debug)]
struct GenericMessage {
    family: u16,
    bytes: Vec<u8>,
}

impl GenericMessage {
    fn new(family: u16, command: u8, attributes: &[DefaultNla]) -> Self {
        const HEADER: usize = 4;
        let mut bytes = vec![0; HEADER + attributes.buffer_len()];
        bytes[..2].copy_from_slice(&[command, 1]);
        attributes.emit(&mut bytes[HEADER..]);
        Self { family, bytes }
    }

    fn attributes(&self) -> &[u8] {
        self.bytes.get(4..).unwrap_or_default()
    }
}

impl NetlinkSerializable for GenericMessage {
    fn message_type(&self) -> u16 {
        self.family
    }

    fn buffer_len(&self) -> usize {
        self.bytes.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer.copy_from_slice(&self.bytes);
    }
}

impl NetlinkDeserializable for GenericMessage {
    type Error = Infallible;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, Infallible> {
        Ok(Self {
            family: header.message_type,
            bytes: payload.to_vec(),
        })
    }
}

impl From<GenericMessage> for NetlinkPayload<GenericMessage> {
    fn from(message: GenericMessage) -> Self {
        Self::InnerMessage(message)
    }
}

/// Asks about interfaces of this thread's network namespace.
pub(super) struct Devices {
    asker: Asker,
    netdev: Option<u16>,
    ethtool: Option<u16>,
}

impl Devices {
    /// Opens a socket. A kernel without one of the families leaves its questions unanswered.
    pub(super) fn open() -> io::Result<Self> {
        let mut asker = Asker::open(NETLINK_GENERIC)?;
        let netdev = family(&mut asker, "netdev").ok();
        let ethtool = family(&mut asker, "ethtool").ok();
        Ok(Self {
            asker,
            netdev,
            ethtool,
        })
    }

    /// Bits of `enum netdev_xdp_act`: what of native XDP the driver has. None if the kernel does not
    /// tell.
    pub(super) fn xdp_features(&mut self, index: u32) -> Option<u64> {
        let question = [DefaultNla::new(DEVICE_INDEX, index.to_ne_bytes().to_vec())];
        let answer = ask(&mut self.asker, self.netdev?, DEVICE_GET, &question).ok()?;
        let bits = attribute(&answer, DEVICE_XDP_FEATURES)?;
        Some(u64::from_ne_bytes(bits.try_into().ok()?))
    }

    /// Names of the offloads that are on, as `ethtool -k` has them in the kernel's words. None if the
    /// kernel does not tell.
    pub(super) fn offloads(&mut self, index: u32) -> Option<BTreeSet<String>> {
        let header = [DefaultNla::new(HEADER_INDEX, index.to_ne_bytes().to_vec())];
        let mut bytes = vec![0; header.as_slice().buffer_len()];
        header.as_slice().emit(&mut bytes);
        let question = [DefaultNla::new(FEATURES_HEADER | NESTED, bytes)];
        let answer = ask(&mut self.asker, self.ethtool?, FEATURES_GET, &question).ok()?;
        Some(bit_names(&attribute(&answer, FEATURES_ACTIVE)?))
    }
}

/// The number of a family.
fn family(asker: &mut Asker, name: &str) -> io::Result<u16> {
    let name = [name.as_bytes(), &[0]].concat();
    let question = [DefaultNla::new(FAMILY_NAME, name)];
    let answer = ask(asker, CONTROLLER, GET_FAMILY, &question)?;
    let id = attribute(&answer, FAMILY_ID).and_then(|id| id.try_into().ok());
    id.map(u16::from_ne_bytes)
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

/// The attributes of the answer to a question that has one answer.
fn ask(
    asker: &mut Asker,
    family: u16,
    command: u8,
    attributes: &[DefaultNla],
) -> io::Result<Vec<u8>> {
    let message = GenericMessage::new(family, command, attributes);
    // The acknowledgement ends what is to be read.
    asker.send(NLM_F_REQUEST | NLM_F_ACK, message)?;
    let mut answer = Vec::new();
    asker.answers::<GenericMessage>(|message| {
        if let NetlinkPayload::InnerMessage(message) = message.payload {
            answer = message.attributes().to_vec();
        }
    })?;
    Ok(answer)
}

fn attribute(bytes: &[u8], kind: u16) -> Option<Vec<u8>> {
    let mut attributes = NlasIterator::new(bytes).filter_map(Result::ok);
    let found = attributes.find(|it| it.kind() == kind)?;
    Some(found.value().to_vec())
}

/// Names of the bits in a bitset that is a list.
fn bit_names(bitset: &[u8]) -> BTreeSet<String> {
    let bits = attribute(bitset, BITSET_BITS).unwrap_or_default();
    let names = NlasIterator::new(bits.as_slice()).filter_map(|bit| {
        let bit = bit.ok()?;
        let name = attribute(bit.value(), BIT_NAME)?;
        let name = name.split(|byte| *byte == 0).next()?;
        Some(String::from_utf8_lossy(name).into_owned())
    });
    names.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_offloads_of_the_loopback_device() {
        let mut devices = Devices::open().unwrap();
        let offloads = devices.offloads(1).unwrap();
        assert!(
            offloads.contains("tx-loopback") || offloads.contains("loopback"),
            "{offloads:?}"
        );
        assert_eq!(devices.offloads(u32::MAX), None);
    }

    #[test]
    fn the_kernel_tells_that_the_loopback_device_has_no_native_xdp() {
        assert_eq!(Devices::open().unwrap().xdp_features(1), Some(0));
    }

    #[test]
    fn an_answer_that_is_cut_off_has_no_attributes() {
        assert_eq!(attribute(&[8, 0, 3], 3), None);
        assert!(bit_names(&[255; 7]).is_empty());
    }
}
