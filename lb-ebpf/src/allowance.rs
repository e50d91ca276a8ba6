//! How many rejects are answered: a token bucket per CPU, so that a flood costs a node no more than
//! a part of its time.

use lb_common::{Tick, counters::Allowance};

/// Rejects answered in a tick, per CPU: some 9,000 a second.
const PER_TICK: u32 = 600;
/// Most that can be saved up.
const MOST: u32 = PER_TICK * Tick::PER_SECOND;

/// Takes one reject from an allowance; false if none is left.
#[inline(always)]
pub fn take(allowance: &mut Allowance, now: Tick) -> bool {
    let ticks = now.since(allowance.granted).min(Tick::PER_SECOND);
    if ticks != 0 {
        allowance.left = (allowance.left + ticks * PER_TICK).min(MOST);
        allowance.granted = now;
    }
    let Some(left) = allowance.left.checked_sub(1) else {
        return false;
    };
    allowance.left = left;
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ticks: u64) -> Tick {
        Tick::from_nanos(ticks * Tick::NANOS)
    }

    /// How many of so many rejects at one moment are answered.
    fn answered(allowance: &mut Allowance, now: Tick, rejects: u32) -> usize {
        (0..rejects).filter(|_| take(allowance, now)).count()
    }

    #[test]
    fn a_second_is_saved_up_and_each_tick_adds_its_share() {
        let mut allowance = Allowance::default();
        assert_eq!(answered(&mut allowance, at(1000), 20_000), MOST as usize);
        assert_eq!(answered(&mut allowance, at(1000), 10), 0);
        assert_eq!(answered(&mut allowance, at(1001), 1000), PER_TICK as usize);
        assert_eq!(answered(&mut allowance, at(9000), 20_000), MOST as usize);
    }

    #[test]
    fn rejects_below_the_rate_are_all_answered() {
        let mut allowance = Allowance::default();
        for tick in 0..1000 {
            let answered = answered(&mut allowance, at(1000 + tick), PER_TICK);
            assert_eq!(answered, PER_TICK as usize);
        }
    }
}
