//! Slots of hashed frontends.

use lb_common::service::{Slots, list};

/// A list of backends behind its table: what the slots from `first` on hold, and which of them are
/// the list. Each slot of the table leads to the backend of this index.
pub fn listed(first: u32, backends: &[u32]) -> (Vec<u32>, Slots) {
    if backends.is_empty() {
        return (Vec::new(), Slots::default());
    }
    let mut distinct: Vec<u32> = Vec::new();
    let mut words = Vec::new();
    for index in backends {
        let known = distinct.iter().position(|known| known == index);
        let position = known.unwrap_or(distinct.len());
        if known.is_none() {
            distinct.push(*index);
        }
        words.push(position as u32);
    }
    let size = words.len() as u32;
    words.extend([first, size]);
    words.extend(&distinct);
    let slots = Slots {
        offset: first + size,
        count: list::HEADER + distinct.len() as u32,
    };
    (words, slots)
}
