//! Which ports source translation takes.

use std::{fs, io, ops::RangeInclusive};

/// Where the kernel says which ports it gives to sockets that ask for none.
const EPHEMERAL: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// The kernel's default for them.
pub(super) const EPHEMERAL_DEFAULT: RangeInclusive<u16> = 32768..=60999;

/// What is taken when nothing is free.
pub(super) const LAST_RESORT: RangeInclusive<u16> = 61000..=65535;

/// Ports below are for servers.
const FIRST: u16 = 1024;

/// The host's own ephemeral ports, as this network namespace has them.
pub(super) fn ephemeral_ports() -> io::Result<RangeInclusive<u16>> {
    let text = fs::read_to_string(EPHEMERAL)?;
    parse(&text).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, text))
}

/// The two numbers of `net.ipv4.ip_local_port_range`.
pub(super) fn parse(text: &str) -> Option<RangeInclusive<u16>> {
    let mut numbers = text.split_whitespace().map(str::parse);
    let (first, last) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    Some(first..=last)
}

/// The largest range of ports from 1024 on that touches none of `reserved`; none if they leave
/// nothing.
pub(super) fn largest_hole(reserved: &[RangeInclusive<u16>]) -> Option<RangeInclusive<u16>> {
    let mut reserved = reserved.to_vec();
    reserved.sort_by_key(|range| *range.start());
    let mut holes = Vec::new();
    let mut free = u32::from(FIRST);
    for range in &reserved {
        holes.push(free..u32::from(*range.start()));
        free = free.max(u32::from(*range.end()) + 1);
    }
    holes.push(free..u32::from(u16::MAX) + 1);
    let largest = holes
        .into_iter()
        .filter(|hole| !hole.is_empty())
        .max_by_key(|hole| (hole.len(), hole.start))?;
    Some(largest.start as u16..=(largest.end - 1) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_hole_beside_the_reserved_ranges() {
        let rows = [
            ("", "1024-65535"),
            ("32768-60999 30000-32767", "1024-29999"),
            ("1-60999", "61000-65535"),
            ("1024-30000 40000-65535", "30001-39999"),
            ("1024-50000 2000-3000", "50001-65535"),
            ("2000-65535 500-600", "1024-1999"),
            ("0-65535", ""),
            ("1024-65535", ""),
            ("1025-65535", "1024-1024"),
        ];
        let ranges = |text: &str| -> Vec<RangeInclusive<u16>> {
            let ranges = text.split_whitespace().map(|range| range.split_once('-'));
            ranges
                .map(|range| range.unwrap())
                .map(|(first, last)| first.parse().unwrap()..=last.parse().unwrap())
                .collect()
        };
        for (reserved, hole) in rows {
            let found = largest_hole(&ranges(reserved));
            assert_eq!(found, ranges(hole).pop(), "beside {reserved}");
        }
    }

    #[test]
    fn the_kernels_port_range_is_two_numbers() {
        assert_eq!(parse("32768\t60999\n"), Some(32768..=60999));
        assert_eq!(parse("32768"), None);
        assert_eq!(parse("a b"), None);
    }
}
