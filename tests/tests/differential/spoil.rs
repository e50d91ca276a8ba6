//! What goes wrong with packets: bits, fields, lengths.

use lb_common::proto;
use tests::random::Random;

use crate::{sums, tuple::Tuple};

/// Most bytes of a frame here.
const LONGEST: usize = 1600;

/// Does one thing to a frame.
pub(crate) fn spoil(frame: &mut Vec<u8>, random: &mut Random) {
    if frame.is_empty() {
        return;
    }
    match random.below(12) {
        0 => flip(frame, random),
        1 => {
            let at = random.below(frame.len());
            frame[at] = random.bytes(1)[0];
        }
        2 => frame.truncate(random.below(frame.len() + 1)),
        3 => {
            let more = random.below(60);
            let tail = if random.one_in(2) {
                vec![0; more]
            } else {
                random.bytes(more)
            };
            frame.extend(tail);
        }
        4 => {
            let from = random.below(frame.len());
            let tail = frame[from..].to_vec();
            frame.extend(tail);
            frame.truncate(LONGEST);
        }
        5 => {
            let group = random.pick(&[[0xff; 6], [1, 0, 0x5e, 0, 0, 1], [0x33, 0x33, 0, 0, 0, 1]]);
            let length = frame.len().min(6);
            frame[..length].copy_from_slice(&group[..length]);
        }
        // Sums that mean something elsewhere: none, minus zero, and what hardware is to complete.
        6 => sums::steer(frame, |_| 0),
        7 => sums::steer(frame, |_| 0xffff),
        8 => sums::steer(frame, |pseudo| pseudo),
        _ => field(frame, random),
    }
}

fn flip(frame: &mut [u8], random: &mut Random) {
    for _ in 0..=random.below(4) {
        let reach = if random.one_in(4) {
            frame.len()
        } else {
            frame.len().min(100)
        };
        frame[random.below(reach)] ^= 1 << random.below(8);
    }
}

/// Puts another value into a field, and in half of all cases sets the header's checksum right again.
fn field(frame: &mut [u8], random: &mut Random) {
    let Some(Tuple { l3, l4, proto, .. }) = Tuple::of(frame) else {
        return flip(frame, random);
    };
    let is_v4 = frame[l3 - 1] == 0;
    let in_ip: &[(usize, usize)] = if is_v4 {
        // Version and length, total length, fragment, TTL, protocol, checksum, addresses.
        &[
            (0, 1),
            (2, 2),
            (6, 2),
            (8, 1),
            (9, 1),
            (10, 2),
            (14, 2),
            (18, 2),
        ]
    } else {
        // Version, payload length, next header, hop limit, addresses.
        &[(0, 1), (4, 2), (6, 1), (7, 1), (22, 2), (38, 2)]
    };
    let in_transport: &[(usize, usize)] = match proto {
        // Ports, data offset, flags, checksum.
        proto::TCP => &[(0, 2), (2, 2), (12, 1), (13, 1), (16, 2)],
        // Ports, length, checksum.
        proto::UDP => &[(0, 2), (2, 2), (4, 2), (6, 2)],
        // Ports, checksum, chunk.
        proto::SCTP => &[(0, 2), (2, 2), (8, 2), (12, 1)],
        // Type, code, checksum; of what is quoted: length, protocol, addresses, ports.
        _ => &[
            (0, 1),
            (1, 1),
            (2, 2),
            (8, 1),
            (10, 2),
            (14, 1),
            (17, 1),
            (22, 2),
            (26, 2),
            (28, 2),
        ],
    };
    let (base, (offset, width)) = match random.below(5) {
        // The EtherType, or that of a tagged frame.
        0 => (l3 - 2, (0, 2)),
        1 | 2 => (l3, random.pick(in_ip)),
        _ => (l4, random.pick(in_transport)),
    };
    let Some(place) = frame.get_mut(base + offset..base + offset + width) else {
        return;
    };
    if let [byte] = place {
        *byte = other(u16::from(*byte), random) as u8;
    } else if let Ok(word) = <[u8; 2]>::try_from(&*place) {
        place.copy_from_slice(&other(u16::from_be_bytes(word), random).to_be_bytes());
    }
    if is_v4 && random.one_in(2) {
        sums::set_header(frame, l3);
    }
}

/// A value near the old one, or one that is special somewhere.
fn other(old: u16, random: &mut Random) -> u16 {
    const SPECIAL: [u16; 24] = [
        0, 1, 2, 4, 5, 6, 8, 17, 20, 40, 43, 44, 50, 51, 58, 60, 132, 0x45, 0x46, 0x4f, 0x2000,
        0x8100, 0x88a8, 0xffff,
    ];
    match random.below(4) {
        0 => old.wrapping_add(1),
        1 => old.wrapping_sub(1),
        2 => old ^ 1 << random.below(16),
        _ => random.pick(&SPECIAL),
    }
}
