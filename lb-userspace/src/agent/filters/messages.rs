//! Netlink messages of qdiscs, filters and chains.
//!
//! Those of others are read no further than is needed: options of kinds that the library does not know,
//! or knows otherwise, must not keep us from ours.

use std::os::fd::{AsRawFd as _, BorrowedFd};

use rtnetlink::{
    packet_core::{
        DecodeError, NetlinkDeserializable, NetlinkHeader, NlaBuffer, NlasIterator, parse_string,
        parse_u32,
    },
    packet_route::tc::{
        TcAttribute, TcBpfFlags, TcFilterBpf, TcFilterBpfOption, TcHandle, TcHeader, TcMessage,
        TcOption,
    },
};

/// `linux/rtnetlink.h`, `linux/pkt_cls.h`
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_CHAIN: u16 = 11;
const TCA_BPF_NAME: u16 = 7;

/// Bytes of `struct tcmsg`.
const HEADER: usize = 20;

/// Filters for packets of every protocol, as `tcm_info` has it.
const ALL: u16 = libc::ETH_P_ALL as u16;

/// A direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::agent) enum Hook {
    /// What an interface receives.
    Ingress,
    /// What it sends.
    Egress,
}

impl Hook {
    /// Both, in the order filters are to be removed: translation does not outlive its reverse.
    pub(in crate::agent) const BOTH: [Self; 2] = [Self::Ingress, Self::Egress];

    const fn parent(self) -> TcHandle {
        let minor = match self {
            Self::Ingress => TcHandle::MIN_INGRESS,
            Self::Egress => TcHandle::MIN_EGRESS,
        };
        TcHandle {
            major: u16::MAX,
            minor,
        }
    }
}

/// A filter of the chain that packets begin with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::agent) struct Filter {
    /// Its priority: those of a lower number come first.
    pub(super) priority: u16,
    /// The Ethernet protocol of its packets.
    pub(super) protocol: u16,
    /// Its number among those of its priority.
    pub(super) handle: u32,
    /// What kind it is of.
    pub(super) kind: String,
    /// Name of a program.
    pub(super) name: Option<String>,
}

impl Filter {
    /// Whether it is a program.
    pub(super) fn is_bpf(&self) -> bool {
        self.kind == TcFilterBpf::KIND
    }

    /// Whether it is for packets of every protocol.
    pub(super) const fn is_for_all(&self) -> bool {
        self.protocol == ALL
    }
}

/// What the kernel says of a qdisc, a filter or a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    header: TcHeader,
    kind: Option<String>,
    chain: Option<u32>,
    name: Option<String>,
}

impl NetlinkDeserializable for Answer {
    type Error = DecodeError;

    fn deserialize(_: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        let mut answer = Self {
            header: TcHeader::parse(payload)?,
            kind: None,
            chain: None,
            name: None,
        };
        for attribute in NlasIterator::new(payload.get(HEADER..).unwrap_or_default()) {
            let attribute = attribute?;
            match attribute.kind() {
                TCA_KIND => answer.kind = Some(parse_string(attribute.value())?),
                TCA_CHAIN => answer.chain = Some(parse_u32(attribute.value())?),
                TCA_OPTIONS if answer.kind.as_deref() == Some(TcFilterBpf::KIND) => {
                    answer.name = program_name(&attribute)?;
                }
                _ => {}
            }
        }
        Ok(answer)
    }
}

fn program_name(options: &NlaBuffer<&[u8]>) -> Result<Option<String>, DecodeError> {
    for option in NlasIterator::new(options.value()) {
        let option = option?;
        if option.kind() == TCA_BPF_NAME {
            return parse_string(option.value()).map(Some);
        }
    }
    Ok(None)
}

impl Answer {
    /// The filter this is about. A priority also has a line of its own, which has no handle, and filters of
    /// other chains are reached by a filter alone.
    pub(super) fn filter(&self) -> Option<Filter> {
        let handle = u32::from(self.header.handle);
        let first = matches!(self.chain, None | Some(0));
        (handle != 0 && first).then(|| Filter {
            priority: (self.header.info >> 16) as u16,
            protocol: u16::from_be(self.header.info as u16),
            handle,
            kind: self.kind.clone().unwrap_or_default(),
            name: self.name.clone(),
        })
    }

    /// Interface and kind of the qdisc this is about, if it can have filters of both directions or of one.
    pub(super) fn qdisc(&self) -> Option<(u32, String)> {
        let index = u32::try_from(self.header.index).ok()?;
        (self.header.parent == TcHandle::CLSACT)
            .then(|| (index, self.kind.clone().unwrap_or_default()))
    }

    /// Number of the chain this is about.
    pub(super) const fn chain(&self) -> Option<u32> {
        self.chain
    }
}

/// The qdisc of an interface that filters are in; of a kind, if that matters.
pub(super) fn qdisc(index: u32, kind: Option<&str>) -> TcMessage {
    let mut message = TcMessage::with_index(index.cast_signed());
    if let Some(kind) = kind {
        message.header.parent = TcHandle::CLSACT;
        message.header.handle = TcHandle {
            major: u16::MAX,
            minor: 0,
        };
        message.attributes.push(TcAttribute::Kind(kind.to_owned()));
    }
    message
}

/// A filter of an interface, with the program it is to have and that one's name; all those of a direction where
/// nothing is said of it.
pub(super) fn filter(
    index: u32,
    hook: Hook,
    priority: u16,
    handle: u32,
    program: Option<(&str, BorrowedFd<'_>)>,
) -> TcMessage {
    let mut message = TcMessage::with_index(index.cast_signed());
    message.header.parent = hook.parent();
    if priority == 0 {
        return message;
    }
    message.header.handle = handle.into();
    message.header.info = u32::from(priority) << 16 | u32::from(ALL.to_be());
    message
        .attributes
        .push(TcAttribute::Kind(TcFilterBpf::KIND.to_owned()));
    if let Some((name, program)) = program {
        let options = [
            TcFilterBpfOption::ProgFd(program.as_raw_fd().cast_unsigned()),
            TcFilterBpfOption::ProgName(name.to_owned()),
            TcFilterBpfOption::Flags(TcBpfFlags::DirectAction),
        ];
        let options = options.map(TcOption::Bpf).to_vec();
        message.attributes.push(TcAttribute::Options(options));
    }
    message
}

/// An empty chain for what an interface receives: no packet comes there, but it stays with the qdisc, and goes
/// with it. All chains there are if its number is 0.
pub(super) fn mark(index: u32, chain: u32) -> TcMessage {
    let mut message = TcMessage::with_index(index.cast_signed());
    message.header.parent = Hook::Ingress.parent();
    if chain != 0 {
        message.attributes.push(TcAttribute::Chain(chain));
    }
    message
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_core::{Emitable as _, NetlinkHeader};

    use super::*;

    fn read(bytes: &[u8]) -> Answer {
        Answer::deserialize(&NetlinkHeader::default(), bytes).unwrap()
    }

    fn written(message: &TcMessage) -> Vec<u8> {
        let mut bytes = vec![0; message.buffer_len()];
        message.emit(&mut bytes);
        bytes
    }

    #[test]
    fn a_filter_is_read_back_as_written() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let program = Some(("fairlead/tc_ext_in", std::os::fd::AsFd::as_fd(&file)));
        let message = filter(7, Hook::Egress, 3, 0x0fa1_1ead, program);
        assert_eq!(message.header.parent, TcHandle::from(0xffff_fff3));
        let found = Filter {
            priority: 3,
            protocol: ALL,
            handle: 0x0fa1_1ead,
            kind: "bpf".to_owned(),
            name: Some("fairlead/tc_ext_in".to_owned()),
        };
        assert_eq!(read(&written(&message)).filter(), Some(found));
    }

    #[test]
    fn options_of_other_kinds_are_not_read() {
        let mut message = filter(7, Hook::Ingress, 1, 1, None);
        // Not attributes at all.
        let junk = rtnetlink::packet_core::DefaultNla::new(TCA_OPTIONS, vec![0xff; 5]);
        message.attributes = vec![
            TcAttribute::Kind("flower".to_owned()),
            TcAttribute::Other(junk),
        ];
        let found = read(&written(&message)).filter().unwrap();
        assert_eq!((found.kind.as_str(), found.name), ("flower", None));
    }

    #[test]
    fn the_line_of_a_priority_and_other_chains_are_no_filters() {
        let mut message = filter(7, Hook::Ingress, 1, 0, None);
        assert_eq!(read(&written(&message)).filter(), None);
        message = filter(7, Hook::Ingress, 1, 1, None);
        message.attributes.push(TcAttribute::Chain(5));
        assert_eq!(read(&written(&message)).filter(), None);
    }

    #[test]
    fn a_qdisc_for_filters_is_told_from_others() {
        let clsact = qdisc(7, Some("clsact"));
        assert_eq!(
            read(&written(&clsact)).qdisc(),
            Some((7, "clsact".to_owned()))
        );
        let mut queue = qdisc(7, Some("fq_codel"));
        queue.header.parent = TcHandle::ROOT;
        assert_eq!(read(&written(&queue)).qdisc(), None);
    }

    #[test]
    fn a_message_cut_short_is_an_error() {
        let bytes = written(&filter(7, Hook::Ingress, 1, 1, None));
        let header = NetlinkHeader::default();
        assert!(Answer::deserialize(&header, &bytes[..HEADER - 1]).is_err());
        assert!(Answer::deserialize(&header, &bytes[..HEADER + 6]).is_err());
    }
}
