//! The checksum of SCTP (`CRC32c`: RFC 9260, 6.8 and appendix A) after its ports changed, without a
//! look at what it covers.
//!
//! A CRC is linear: the CRCs of two packets of one length differ by what their difference alone
//! leaves in the register. Ports are the first four bytes, so that is their difference times
//! `x^(8·length)` in the field of the CRC's polynomial.

/// The polynomial without its highest term, lowest power last, as the register has it.
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// `x^8`: what a byte moves the register by.
const BYTE: u32 = 1 << (31 - 8);

/// One: what no byte moves the register by.
const ONE: u32 = 1 << 31;

/// `x^(8·d·16^k)` for each digit `d` a length can have at place `k`, in hexadecimal.
const STEPS: [[u32; 16]; 4] = {
    let mut steps = [[ONE; 16]; 4];
    let mut unit = BYTE;
    let mut place = 0;
    while place < steps.len() {
        let mut digit = 1;
        while digit < steps[place].len() {
            steps[place][digit] = multiply(steps[place][digit - 1], unit);
            digit += 1;
        }
        unit = multiply(steps[place][15], unit);
        place += 1;
    }
    steps
};

/// A mask for either value of a bit, and what is left of the polynomial for it. Looked up, where a
/// branch would do, or the arithmetic of one: the verifier would try each of their combinations, as
/// of linux 6.18 also of what is masked by a bit. What it reads at an unknown place it does not know.
const MASK: [u32; 2] = [0, u32::MAX];
const REDUCTION: [u32; 2] = [0, POLYNOMIAL];

/// The product of two polynomials.
#[inline(always)]
const fn multiply(a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    let mut bit = u32::BITS;
    while bit > 0 {
        bit -= 1;
        product ^= b & MASK[(a >> bit & 1) as usize];
        b = b >> 1 ^ REDUCTION[(b & 1) as usize];
    }
    product
}

/// What the checksum of a packet of so many bytes changes by (XOR) when the word that is its ports
/// does. Both words are in memory order.
#[inline(always)]
pub fn sctp_checksum_change(ports: u32, length: u16) -> u32 {
    let mut register = u32::from_le(ports);
    for (place, digits) in STEPS.iter().enumerate() {
        register = multiply(register, digits[usize::from(length >> (4 * place) & 0xf)]);
    }
    register.to_le()
}

/// The checksum of a packet whose own field is zero, as it is defined: bit by bit. For those who make
/// packets and receive them; it is stored as little-endian.
#[cfg(not(target_arch = "bpf"))]
pub fn crc32c(packet: &[u8]) -> u32 {
    let mut register = u32::MAX;
    for byte in packet {
        register ^= u32::from(*byte);
        for _ in 0..8 {
            let carry = register & 1;
            register >>= 1;
            if carry != 0 {
                register ^= POLYNOMIAL;
            }
        }
    }
    !register
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn word(bytes: &[u8]) -> u32 {
        u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    }

    #[test]
    fn the_reference_yields_the_check_value() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    proptest! {
        #[test]
        fn the_change_equals_a_new_computation(
            mut packet in vec(any::<u8>(), 12..2000), ports: [u8; 4],
        ) {
            let before = crc32c(&packet);
            let old = word(&packet);
            packet[..4].copy_from_slice(&ports);
            let change = sctp_checksum_change(old ^ word(&packet), packet.len() as u16);
            prop_assert_eq!(before ^ u32::from_le(change), crc32c(&packet));
        }
    }

    #[test]
    fn the_longest_packet_is_no_exception() {
        let mut packet = vec![0xa5; usize::from(u16::MAX)];
        let before = crc32c(&packet);
        packet[..4].copy_from_slice(&[1, 2, 3, 4]);
        let change = sctp_checksum_change(word(&[0xa5; 4]) ^ word(&packet), u16::MAX);
        assert_eq!(before ^ u32::from_le(change), crc32c(&packet));
    }
}
