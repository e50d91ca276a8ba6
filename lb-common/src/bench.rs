//! What the measuring programs and `cargo xtask bench datapath` share.

use crate::{assert_layout, service::Slots};

/// Bytes of headers that are laid anew for each packet.
pub const HEAD: usize = 80;

/// How often the targets that choose a backend do in a run.
pub const CHOICES: u32 = 16;
/// Where the one finds the slots that chance draws from.
pub const DRAWN: Slots = Slots {
    offset: 0,
    count: 64,
};
/// And the other the list with a Maglev table.
pub const LISTED: Slots = Slots {
    offset: 1 << 15,
    count: 66,
};

/// The packet that is measured. Each flow differs from it in one word of the client's address and
/// one of the service's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Template {
    /// Headers, Ethernet first.
    pub head: [u64; HEAD / 8],
    /// Offset of the word that tells clients apart.
    pub client: u32,
    /// Its value for the first client.
    pub client_word: u32,
    /// Offset of the word that tells services apart.
    pub service: u32,
    /// Its value for the first service.
    pub service_word: u32,
    /// How many services flows are spread over.
    pub services: u32,
    /// Keeps the size a multiple of eight.
    pub zero: u32,
}

assert_layout!(Template = HEAD + 24);

/// Which flow is next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Cursor {
    /// Counts up.
    pub next: u32,
    /// Flows run from 0 to this, a power of two less one.
    pub mask: u32,
}

assert_layout!(Cursor = 8);

/// The client and the service of a flow: every flow another client, flows spread over services
/// evenly and in no order.
#[inline(always)]
pub const fn draw(flow: u32, services: u32) -> (u32, u32) {
    let mixed = flow.wrapping_mul(0x9e37_79b1);
    (flow, ((mixed as u64 * services as u64) >> 32) as u32)
}
