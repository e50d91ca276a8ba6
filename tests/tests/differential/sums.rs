//! Internet checksums (RFC 1071), the slow and plain way.

use lb_common::proto;

use crate::tuple::{Tuple, word};

/// The one's complement sum of bytes.
pub(crate) fn sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| {
        let low = pair.get(1).copied().unwrap_or(0);
        u32::from(u16::from_be_bytes([pair[0], low]))
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}

/// The sum of two sums.
fn add(a: u16, b: u16) -> u16 {
    let (sum, carry) = a.overflowing_add(b);
    sum + u16::from(carry)
}

/// Puts the right checksum into the IPv4 header at `l3`, if it is there as a whole.
pub(crate) fn set_header(frame: &mut [u8], l3: usize) {
    let Some(first) = frame.get(l3) else { return };
    let end = l3 + usize::from(first & 0x0f) * 4;
    if end < l3 + 20 || end > frame.len() {
        return;
    }
    frame[l3 + 10..l3 + 12].fill(0);
    let checksum = !sum(&frame[l3..end]);
    frame[l3 + 10..l3 + 12].copy_from_slice(&checksum.to_be_bytes());
}

/// Where TCP and UDP have their checksum, if the frame has one, and the sum of the pseudo header; for
/// a packet that the frame ends with.
pub(crate) fn transport(frame: &[u8]) -> Option<(usize, u16)> {
    let Tuple { l3, l4, proto, .. } = Tuple::of(frame)?;
    let field = l4
        + match proto {
            proto::TCP => 16,
            proto::UDP => 6,
            _ => return None,
        };
    word(frame, field)?;
    let addresses = if frame.get(l3)? >> 4 == 4 {
        12..20
    } else {
        8..40
    };
    let addresses = sum(frame.get(l3 + addresses.start..l3 + addresses.end)?);
    let length = (frame.len() - l4) as u16;
    Some((field, add(add(addresses, length), u16::from(proto))))
}

/// Changes the payload's last words such that the checksum of a TCP segment or UDP datagram is
/// `wanted`, and right. Nothing comes of it where there is no payload.
pub(crate) fn steer(frame: &mut [u8], wanted: impl Fn(u16) -> u16) {
    let Some((field, pseudo)) = transport(frame) else {
        return;
    };
    let Some(Tuple { l4, .. }) = Tuple::of(frame) else {
        return;
    };
    let free = l4 + (frame.len() - l4) / 2 * 2 - 2;
    if free < field + 4 {
        return;
    }
    let wanted = wanted(pseudo);
    frame[field..field + 2].copy_from_slice(&wanted.to_be_bytes());
    frame[free..free + 2].fill(0);
    // All together shall sum up to minus zero.
    let missing = !add(pseudo, sum(&frame[l4..]));
    frame[free..free + 2].copy_from_slice(&missing.to_be_bytes());
}
