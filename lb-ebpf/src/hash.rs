//! The number that a flow is looked up in a Maglev table by.

use lb_common::{Addr, flow::FlowKey};

/// What the words of a flow are multiplied by: the first fractional digits of pi.
mod factors {
    pub(super) const PORTS: u64 = 0x243f_6a88_85a3_08d3;
    pub(super) const PROTOCOL: u64 = 0x1319_8a2e_0370_7344;
    pub(super) const SOURCE: [u64; 4] = [
        0xa409_3822_299f_31d0,
        0x082e_fa98_ec4e_6c89,
        0x4528_21e6_38d0_1377,
        0xbe54_66cf_34e9_0c6c,
    ];
    pub(super) const DESTINATION: [u64; 4] = [
        0xc0ac_29b7_c97c_50dd,
        0x3f84_d5b5_b547_0917,
        0x9216_d5d9_8979_fb1b,
        0xd131_0ba6_98df_b5ac,
    ];
    /// 2^64 by the golden ratio (Knuth).
    pub(super) const SUM: u64 = 0x9e37_79b9_7f4a_7c15;
}

/// The number of a flow: the same on every node and at every hook, and spread like a random one.
///
/// The upper half of a sum of products, one for each word of the 5-tuple (multilinear hashing: Lemire and
/// Kaser, "Strongly universal string hashing is fast", 2014): no product waits for another, so that IPv6
/// costs little more than IPv4. By the sum alone a client's ports would go around the table in equal steps: it
/// is folded and multiplied once more.
#[inline(always)]
pub fn flow_hash<A: Addr>(flow: &FlowKey<A>) -> u32 {
    let ports = u64::from(flow.sport.word()) << 16 | u64::from(flow.dport.word());
    let sum = ports
        .wrapping_mul(factors::PORTS)
        .wrapping_add(u64::from(flow.proto).wrapping_mul(factors::PROTOCOL))
        .wrapping_add(products(&flow.src, &factors::SOURCE))
        .wrapping_add(products(&flow.dst, &factors::DESTINATION));
    ((sum ^ sum >> 32).wrapping_mul(factors::SUM) >> 32) as u32
}

#[inline(always)]
fn products<A: Addr>(addr: &A, factors: &[u64; 4]) -> u64 {
    let words = addr.words().iter().zip(factors);
    words.fold(0, |sum: u64, (word, factor)| {
        sum.wrapping_add(u64::from(*word).wrapping_mul(*factor))
    })
}
