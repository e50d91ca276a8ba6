//! Packets in fragments, and whole again.

use etherparse::checksum::Sum16BitWords;

const ETHERNET: usize = 14;
const IPV6: usize = 40;
const FRAGMENT: u8 = 44;

/// What all fragments of a packet have as identification.
const ID: u16 = 0x0815;

/// Splits an untagged frame without extension headers into fragments with this much payload each, which
/// is a multiple of 8. There are at least two.
pub(crate) fn split(frame: &[u8], size: usize) -> Vec<Vec<u8>> {
    assert!(size.is_multiple_of(8));
    let parts = if is_ipv6(frame) {
        split_ipv6
    } else {
        split_ipv4
    };
    let parts = parts(frame, size);
    assert!(parts.len() > 1, "one fragment is none");
    parts
}

fn is_ipv6(frame: &[u8]) -> bool {
    frame[ETHERNET] >> 4 == 6
}

fn header_length(frame: &[u8]) -> usize {
    usize::from(frame[ETHERNET] & 0x0f) * 4
}

/// Offset, whether more follow, and the bytes of each part of a payload.
fn chunks(payload: &[u8], size: usize) -> impl Iterator<Item = (u16, bool, &[u8])> {
    let count = payload.len().div_ceil(size);
    payload.chunks(size).enumerate().map(move |(i, chunk)| {
        let offset = u16::try_from(i * size / 8).unwrap();
        (offset, i + 1 < count, chunk)
    })
}

fn split_ipv4(frame: &[u8], size: usize) -> Vec<Vec<u8>> {
    let (head, payload) = frame.split_at(ETHERNET + header_length(frame));
    let part = |(offset, more, chunk): (u16, bool, &[u8])| {
        let mut part = [head, chunk].concat();
        let length = u16::try_from(part.len() - ETHERNET).unwrap();
        let header = &mut part[ETHERNET..head.len()];
        header[2..4].copy_from_slice(&length.to_be_bytes());
        header[4..6].copy_from_slice(&ID.to_be_bytes());
        let field = offset | u16::from(more) << 13;
        header[6..8].copy_from_slice(&field.to_be_bytes());
        header[10..12].fill(0);
        let sum = Sum16BitWords::new().add_slice(header).ones_complement();
        header[10..12].copy_from_slice(&sum.to_ne_bytes());
        part
    };
    chunks(payload, size).map(part).collect()
}

fn split_ipv6(frame: &[u8], size: usize) -> Vec<Vec<u8>> {
    let (head, payload) = frame.split_at(ETHERNET + IPV6);
    let next = head[ETHERNET + 6];
    let part = |(offset, more, chunk): (u16, bool, &[u8])| {
        let [high, low] = (offset << 3 | u16::from(more)).to_be_bytes();
        let [id_high, id_low] = ID.to_be_bytes();
        let fragment = [next, 0, high, low, 0, 0, id_high, id_low];
        let mut part = [head, &fragment, chunk].concat();
        let length = u16::try_from(fragment.len() + chunk.len()).unwrap();
        part[ETHERNET + 4..ETHERNET + 6].copy_from_slice(&length.to_be_bytes());
        part[ETHERNET + 6] = FRAGMENT;
        part
    };
    chunks(payload, size).map(part).collect()
}

/// What follows the IP header of a frame.
pub(crate) fn payload(frame: &[u8]) -> &[u8] {
    if is_ipv6(frame) {
        &frame[ETHERNET + IPV6..]
    } else {
        &frame[ETHERNET + header_length(frame)..]
    }
}

/// The payload of the packet that fragments are of, whichever comes first.
pub(crate) fn join(mut parts: Vec<Vec<u8>>) -> Vec<u8> {
    let offset = |part: &Vec<u8>| {
        let field = if is_ipv6(part) {
            &payload(part)[2..4]
        } else {
            &part[ETHERNET + 6..ETHERNET + 8]
        };
        let field = u16::from_be_bytes(field.try_into().unwrap());
        if is_ipv6(part) {
            field >> 3
        } else {
            field & 0x1fff
        }
    };
    parts.sort_by_key(offset);
    let data = parts.iter().map(|part| {
        let skipped = if is_ipv6(part) { 8 } else { 0 };
        &payload(part)[skipped..]
    });
    data.collect::<Vec<_>>().concat()
}
