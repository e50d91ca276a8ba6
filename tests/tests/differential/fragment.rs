//! Packets in fragments, as a router or their sender cuts them (RFC 791, RFC 8200).

use lb_common::proto;
use tests::random::Random;

use crate::{
    sums,
    tuple::{Tuple, word},
};

/// Bytes that an offset counts.
const UNIT: usize = 8;
const MORE: u16 = 0x2000;
const OFFSET: u16 = 0x1fff;
/// The next header that says an IPv6 fragment follows.
const FRAGMENT: u8 = 44;

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
    let place = (units * UNIT) as u16 | u16::from(more);
    let [high, low] = place.to_be_bytes();
    let header = [headers[20], 0, high, low, 0, 0, 0x43, 0x21];
    let mut frame = [headers, &header, data].concat();
    let length = (frame.len() - 54) as u16;
    frame[18..20].copy_from_slice(&length.to_be_bytes());
    frame[20] = FRAGMENT;
    frame
}

/// The packet whose fragments these are, as its receiver has it; none if they do not fit together.
pub(crate) fn join(fragments: &[Vec<u8>]) -> Option<Vec<u8>> {
    let mut parts = fragments
        .iter()
        .map(|it| part(it))
        .collect::<Option<Vec<_>>>()?;
    parts.sort_by_key(|part| part.offset);
    let (first, last) = (parts.first()?, parts.last()?);
    let mut frame = first.headers.clone();
    let l4 = frame.len();
    for part in &parts {
        let is_next = frame.len() - l4 == part.offset;
        if !is_next || part.of != first.of || alike(&part.headers) != alike(&first.headers) {
            return None;
        }
        frame.extend(part.data);
    }
    if last.more || parts.iter().rev().skip(1).any(|part| !part.more) {
        return None;
    }
    if frame[12] == 0x08 {
        let length = (frame.len() - 14) as u16;
        frame[16..18].copy_from_slice(&length.to_be_bytes());
        frame[20..22].fill(0);
        sums::set_header(&mut frame, 14);
    } else {
        let length = (frame.len() - 54) as u16;
        frame[18..20].copy_from_slice(&length.to_be_bytes());
    }
    Some(frame)
}

/// What is the same in the headers of all fragments, as their sender has cut them: all but length, place
/// and checksum.
fn alike(headers: &[u8]) -> Vec<u8> {
    let mut headers = headers.to_vec();
    let differ: &[usize] = if headers[12] == 0x08 {
        &[16, 17, 20, 21, 24, 25]
    } else {
        &[18, 19]
    };
    for at in differ {
        headers[*at] = 0;
    }
    headers
}

/// Whether it is the fragment with the ports. One that ends within the transport header (RFC 1858) is not
/// read, and nobody's.
pub(crate) fn is_first(frame: &[u8]) -> bool {
    part(frame).is_some_and(|part| {
        let least = match part.of.0 {
            proto::TCP => 20,
            proto::SCTP => 16,
            _ => 8,
        };
        part.offset == 0 && part.more && part.data.len() >= least
    })
}

/// A fragment, taken apart.
struct Part<'f> {
    /// Those of the whole packet, but for length and checksum.
    headers: Vec<u8>,
    data: &'f [u8],
    /// What all fragments of a packet have: protocol and identification.
    of: (u8, u32),
    /// Where its data is in the whole.
    offset: usize,
    more: bool,
}

fn part(frame: &[u8]) -> Option<Part<'_>> {
    if word(frame, 12)? == 0x0800 && frame.get(14)? >> 4 == 4 {
        let l4 = 14 + usize::from(frame.get(14)? & 0x0f) * 4;
        if l4 < 34 {
            return None;
        }
        let place = word(frame, 20)?;
        let end = 14 + usize::from(word(frame, 16)?);
        return Some(Part {
            headers: frame.get(..l4)?.to_vec(),
            data: frame.get(l4..end)?,
            of: (frame[23], word(frame, 18)?.into()),
            offset: usize::from(place & OFFSET) * UNIT,
            more: place & MORE != 0,
        });
    }
    if word(frame, 12)? != 0x86dd || frame.get(14)? >> 4 != 6 || *frame.get(20)? != FRAGMENT {
        return None;
    }
    let place = word(frame, 56)?;
    let end = 54 + usize::from(word(frame, 18)?);
    let mut headers = frame.get(..54)?.to_vec();
    headers[20] = frame[54];
    let id = frame.get(58..62)?.first_chunk()?;
    Some(Part {
        headers,
        data: frame.get(62..end)?,
        of: (frame[54], u32::from_be_bytes(*id)),
        offset: usize::from(place & !7),
        more: place & 1 != 0,
    })
}
