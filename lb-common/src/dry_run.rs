//! Dry runs: what a program tells of a packet it was only asked about.
//!
//! The object is loaded a second time with [`GLOBAL`] set. To the verifier that is a constant, so
//! whatever would write a flow, a counter or a client's memory is gone from the loaded code. The
//! asked packet's control block (`__sk_buff.cb`) carries the answer, its mark the random numbers.

use crate::{
    counters::Reason,
    flow::{Half, Route},
    service::Slots,
};

/// Name of the global that makes the object's programs dry: a u32, 1 for yes.
pub const GLOBAL: &str = "DRY_RUN";

/// How many words an answer has: all of the control block.
pub const WORDS: usize = 5;

/// Places of the words.
pub mod word {
    /// Made of [`super::Outcome`], [`super::Reason`], route, half and [`super::told`].
    pub const OUTCOME: usize = 0;
    /// Service id.
    pub const SERVICE: usize = 1;
    /// First slot of the backends there were to choose from.
    pub const FIRST_SLOT: usize = 2;
    /// How many slots there were.
    pub const SLOT_COUNT: usize = 3;
    /// Index of the backend.
    pub const BACKEND: usize = 4;
}

/// Bits of [`word::OUTCOME`] that say which parts of an answer are there.
pub mod told {
    /// The program came to its end.
    pub const OUTCOME: u32 = 1 << 24;
    /// A frontend was found: service and slots.
    pub const FRONTEND: u32 = 1 << 25;
    /// A slot was drawn.
    pub const DRAWN: u32 = 1 << 26;
    /// A flow was followed: service, backend, route and half.
    pub const FLOW: u32 = 1 << 27;
    /// What was drawn follows from the flow's hash.
    pub const HASHED: u32 = 1 << 28;
    /// The slots of the frontend are a list with a table.
    pub const LIST: u32 = 1 << 29;
}

const REASON_SHIFT: u32 = 8;
const ROUTE_SHIFT: u32 = 16;
const HALF_SHIFT: u32 = 20;

/// What becomes of the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Outcome {
    /// It goes on untouched.
    Pass = 0,
    /// It goes on to a backend.
    Forward = 1,
    /// The sender is told that nobody is there.
    Reject = 2,
    /// It is discarded.
    Drop = 3,
}

impl Outcome {
    /// Its bits, with those that say it is there.
    #[inline(always)]
    pub const fn bits(self) -> u32 {
        self as u32 | told::OUTCOME
    }
}

/// The bits of a reason; of several that are told, the last one holds.
#[inline(always)]
pub const fn reason_bits(reason: Reason) -> u32 {
    (reason as u32 + 1) << REASON_SHIFT
}

/// Where [`reason_bits`] go.
pub const REASON_MASK: u32 = 0xff << REASON_SHIFT;

/// The bits of a flow's row.
#[inline(always)]
pub const fn flow_bits(route: Route, half: Half) -> u32 {
    (route as u32) << ROUTE_SHIFT | (half as u32) << HALF_SHIFT | told::FLOW
}

/// A whole answer, as it is read from the control block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What becomes of the packet.
    pub outcome: Outcome,
    /// Why it is not translated.
    pub reason: Option<Reason>,
    /// The frontend that was looked at, if the packet is of no known flow.
    pub frontend: Option<Considered>,
    /// The row that was followed.
    pub flow: Option<Followed>,
}

/// A frontend, as one client sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Considered {
    /// Service id.
    pub service: u32,
    /// The backends there are for the client.
    pub slots: Slots,
    /// Whether those slots are a [`list`](crate::service::list).
    pub list: bool,
    /// Whether one was drawn; else it was remembered, or it did not come to that.
    pub drawn: bool,
    /// Whether it was drawn by the flow's hash, not by chance.
    pub hashed: bool,
}

/// The row a packet was rewritten by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Followed {
    /// Service id.
    pub service: u32,
    /// Index of the backend.
    pub backend: u32,
    /// How the packet goes on.
    pub route: Route,
    /// Which half of the connection it belongs to.
    pub half: Half,
}

impl Answer {
    /// Reads the control block. None if no program of this version wrote it.
    pub fn read(words: &[u32; WORDS]) -> Option<Self> {
        let [bits, service, offset, count, backend] = *words;
        if bits & told::OUTCOME == 0 {
            return None;
        }
        let reason = match (bits & REASON_MASK) >> REASON_SHIFT {
            0 => None,
            number => Some(*Reason::ALL.get(number as usize - 1)?),
        };
        let route = Route::ALL
            .into_iter()
            .find(|route| *route as u32 == bits >> ROUTE_SHIFT & 0xf)?;
        let half = if bits >> HALF_SHIFT & 0xf == Half::Request as u32 {
            Half::Request
        } else {
            Half::Reply
        };
        Some(Self {
            outcome: outcome(bits as u8)?,
            reason,
            frontend: (bits & told::FRONTEND != 0).then_some(Considered {
                service,
                slots: Slots { offset, count },
                list: bits & told::LIST != 0,
                drawn: bits & told::DRAWN != 0,
                hashed: bits & told::HASHED != 0,
            }),
            flow: (bits & told::FLOW != 0).then_some(Followed {
                service,
                backend,
                route,
                half,
            }),
        })
    }
}

fn outcome(number: u8) -> Option<Outcome> {
    [
        Outcome::Pass,
        Outcome::Forward,
        Outcome::Reject,
        Outcome::Drop,
    ]
    .into_iter()
    .find(|outcome| *outcome as u8 == number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_as_it_was_told() {
        for reason in Reason::ALL {
            let bits = Outcome::Drop.bits() | reason_bits(*reason) | told::FRONTEND | told::DRAWN;
            let answer = Answer::read(&[bits, 7, 16, 3, 0]);
            let slots = Slots {
                offset: 16,
                count: 3,
            };
            let expected = Answer {
                outcome: Outcome::Drop,
                reason: Some(*reason),
                frontend: Some(Considered {
                    service: 7,
                    slots,
                    list: false,
                    drawn: true,
                    hashed: false,
                }),
                flow: None,
            };
            assert_eq!(answer, Some(expected));
        }
        for route in Route::ALL {
            for half in [Half::Request, Half::Reply] {
                let bits = Outcome::Forward.bits() | flow_bits(route, half);
                let answer = Answer::read(&[bits, 7, 0, 0, 9]);
                let expected = Answer {
                    outcome: Outcome::Forward,
                    reason: None,
                    frontend: None,
                    flow: Some(Followed {
                        service: 7,
                        backend: 9,
                        route,
                        half,
                    }),
                };
                assert_eq!(answer, Some(expected));
            }
        }
    }

    #[test]
    fn what_no_program_wrote_is_no_answer() {
        assert_eq!(Answer::read(&[0; WORDS]), None);
        let unknown_reason = Outcome::Drop.bits() | REASON_MASK;
        assert_eq!(Answer::read(&[unknown_reason, 0, 0, 0, 0]), None);
        assert_eq!(Answer::read(&[told::OUTCOME | 9, 0, 0, 0, 0]), None);
    }
}
