//! Packets in fragments, as a router or their sender cuts them (RFC 791, RFC 8200).

use tests::random::Random;

use crate::{sums, tuple::Tuple};

/// Bytes that an offset counts.
const UNIT: usize = 8;
const MORE: u16 = 0x2000;

/// A frame's packet in two or three fragments, in any order; or the frame, if it is too short or has
/// extension headers or VLAN tags.
pub(crate) fn split(frame: &[u8], random: &mut Random) -> Vec<Vec<u8>> {
    let Some(Tuple { l3: 14, l4, .. }) = Tuple::of(frame) else {
        return vec![frame.to_vec()];
    };
    let is_v4 = frame[12] == 0x08;
    let units = frame.len().saturating_sub(l4) / UNIT;
    if units < 2 || !is_v4 && l4 != 54 || is_v4 && l4 < 34 {
        return vec![frame.to_vec()];
    }
    let mut cuts = vec![0, 1 + random.below(units - 1)];
    if random.one_in(2) {
        cuts.push(1 + random.below(units - 1));
    }
    cuts.sort_unstable();
    cuts.dedup();
    let ends = cuts[1..]
        .iter()
        .map(|cut| l4 + cut * UNIT)
        .chain([frame.len()]);
    let mut fragments: Vec<_> = cuts
        .iter()
        .zip(ends)
        .map(|(cut, end)| {
            let data = &frame[l4 + cut * UNIT..end];
            let more = end != frame.len();
            if is_v4 {
                ipv4(&frame[..l4], data, *cut, more)
            } else {
                ipv6(&frame[..l4], data, *cut, more)
            }
        })
        .collect();
    if random.one_in(3) {
        fragments.reverse();
    }
    fragments
}

fn ipv4(headers: &[u8], data: &[u8], units: usize, more: bool) -> Vec<u8> {
    let mut frame = [headers, data].concat();
    let length = (frame.len() - 14) as u16;
    let place = units as u16 | if more { MORE } else { 0 };
    frame[16..18].copy_from_slice(&length.to_be_bytes());
    frame[20..22].copy_from_slice(&place.to_be_bytes());
    sums::set_header(&mut frame, 14);
    frame
}

fn ipv6(headers: &[u8], data: &[u8], units: usize, more: bool) -> Vec<u8> {
    const FRAGMENT: u8 = 44;
    let place = (units * UNIT) as u16 | u16::from(more);
    let [high, low] = place.to_be_bytes();
    let header = [headers[20], 0, high, low, 0, 0, 0x43, 0x21];
    let mut frame = [headers, &header, data].concat();
    let length = (frame.len() - 54) as u16;
    frame[18..20].copy_from_slice(&length.to_be_bytes());
    frame[20] = FRAGMENT;
    frame
}
