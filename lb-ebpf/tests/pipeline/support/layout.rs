//! Everything about a packet that does not matter to its translation, made up at random.

use etherparse::{IpNumber, Ipv4Options, Ipv6Extensions, Ipv6RawExtHeader, Ipv6RoutingExtensions};
use proptest::{collection::vec, option, prelude::*};

use super::frame::{Frame, Segment};

/// What a packet may look like around its addresses.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    tag: Option<u16>,
    options: Ipv4Options,
    extensions: Box<Ipv6Extensions>,
    ttl: u8,
    payload: Vec<u8>,
    udp_checksum: bool,
}

impl Layout {
    /// Gives a frame this layout.
    pub(crate) fn apply(&self, mut frame: Frame) -> Frame {
        let Self {
            tag,
            options,
            extensions,
            ttl,
            payload,
            udp_checksum,
        } = self.clone();
        if matches!(frame.segment, Segment::Udp { .. }) {
            frame.segment = Segment::Udp {
                checksum: udp_checksum,
            };
        }
        Frame {
            tag,
            ttl,
            options,
            extensions,
            payload,
            ..frame
        }
    }
}

/// Layouts the pipeline understands.
pub(crate) fn layouts() -> impl Strategy<Value = Layout> {
    (
        option::of(priority_tags()),
        prop_oneof![2 => Just(Ipv4Options::new()), 1 => ipv4_options()],
        prop_oneof![2 => Just(Box::default()), 1 => extensions().prop_map(Box::new)],
        2_u8..,
        vec(any::<u8>(), 0..64),
        prop::bool::weighted(0.8),
    )
        .prop_map(
            |(tag, options, extensions, ttl, payload, udp_checksum)| Layout {
                tag,
                options,
                extensions,
                ttl,
                payload,
                udp_checksum,
            },
        )
}

/// Tags without a VLAN: priority and drop eligibility only.
fn priority_tags() -> impl Strategy<Value = u16> {
    (0_u16..16).prop_map(|bits| bits << 12)
}

fn ipv4_options() -> impl Strategy<Value = Ipv4Options> {
    (1_usize..=10).prop_map(|words| {
        // No-operations, ended by an end of list.
        let mut bytes = vec![1; words * 4];
        bytes[words * 4 - 1] = 0;
        bytes.as_slice().try_into().unwrap()
    })
}

fn extensions() -> impl Strategy<Value = Ipv6Extensions> {
    let header = || option::of((0_usize..4).prop_map(padding));
    (header(), header(), header(), header()).prop_map(
        |(hop_by_hop_options, destination_options, routing, final_destination_options)| {
            Ipv6Extensions {
                hop_by_hop_options,
                destination_options,
                // All zero is a routing header without segments left.
                routing: routing.map(|header| Ipv6RoutingExtensions {
                    routing: extension(&vec![0; header.payload().len()]),
                    final_destination_options,
                }),
                fragment: None,
                auth: None,
            }
        },
    )
}

/// A header of `words` times 8 bytes more than the least, with one padding option.
pub(crate) fn padding(words: usize) -> Ipv6RawExtHeader {
    let mut payload = vec![0; 6 + words * 8];
    payload[0] = 1;
    payload[1] = payload.len() as u8 - 2;
    extension(&payload)
}

/// A header with this content; its next header is filled in by the builder.
pub(crate) fn extension(payload: &[u8]) -> Ipv6RawExtHeader {
    Ipv6RawExtHeader::new_raw(IpNumber(0), payload).unwrap()
}
