//! Runs the pinned programs of dry runs (`BPF_PROG_TEST_RUN`).

use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use lb_common::{
    dry_run::{Answer, WORDS},
    maps::programs,
};

use super::{
    super::{Error, pinned::PinnedMaps},
    place::{Hook, Place},
};

/// Words of `struct __sk_buff`, and the places of its fields.
const CONTEXT: usize = 192 / 4;
const MARK: usize = 8 / 4;
const IFINDEX: usize = 40 / 4;
const CONTROL_BLOCK: usize = 48 / 4;

/// Bytes beyond what was sent that a program may make of it.
const ROOM: usize = 256;

/// A program that answers for a place.
pub(super) struct Oracle {
    name: &'static str,
    program: SchedClassifier,
    ifindex: u32,
}

/// What it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Told {
    /// Its answer.
    pub(super) answer: Answer,
    /// The packet as it left it.
    pub(super) frame: Vec<u8>,
}

impl Oracle {
    pub(super) fn open(maps: &PinnedMaps, place: &Place) -> Result<Self, Error> {
        let name = match place.hook {
            Hook::Pod => programs::TC_POD_INGRESS_FULL,
            Hook::External => programs::TC_EXTERNAL_INGRESS_FULL,
            Hook::Host => programs::TC_HOST,
        };
        Ok(Self {
            name,
            program: maps.program(name)?,
            ifindex: place.ifindex,
        })
    }

    /// What would become of this packet if the first random number were `random`.
    pub(super) fn ask(&self, frame: &[u8], random: u32) -> Result<Told, Error> {
        let mut context = [0; CONTEXT];
        context[MARK] = random;
        context[IFINDEX] = self.ifindex;
        let context_in = context.map(u32::to_ne_bytes);
        let mut context_out = context_in;
        let mut rewritten = vec![0; frame.len() + ROOM];
        let result = self.program.test_run(TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut rewritten),
            ctx_in: Some(context_in.as_flattened()),
            ctx_out: Some(context_out.as_flattened_mut()),
            ..TestRunOptions::default()
        });
        let result = result.map_err(|source| Error::Run {
            program: self.name,
            interface: self.ifindex,
            source,
        })?;
        rewritten.truncate(result.data_size_out as usize);
        let words: [u32; WORDS] =
            std::array::from_fn(|word| u32::from_ne_bytes(context_out[CONTROL_BLOCK + word]));
        Ok(Told {
            answer: Answer::read(&words).ok_or(Error::NoAnswer(self.name))?,
            frame: rewritten,
        })
    }
}

/// The smallest random number that leads to choice `index` of `count`, as programs scale them.
pub(super) fn leading_to(index: u32, count: u32) -> u32 {
    (u64::from(index) << 32).div_ceil(u64::from(count.max(1))) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_choice_has_a_number_that_leads_to_it() {
        for count in [1_u32, 2, 3, 7, 1000, 65_537] {
            for index in [0, count / 2, count - 1] {
                let scaled = (u64::from(leading_to(index, count)) * u64::from(count)) >> 32;
                assert_eq!(scaled, u64::from(index), "of {count}");
            }
        }
    }
}
