//! A stream of events, played on both sides.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use anyhow::{Context, Result, ensure};
use lb_common::{
    Addr, V4, V6,
    config::{Config, Network, flags},
    counters::Reason,
    proto,
};
use lb_model::wire;
use tests::{
    fixture::{action, names},
    kernel::Output,
    random::Random,
    topology::Family,
};

use crate::{
    draw::{Draw, Event},
    fragment,
    place::{Place, Way},
    tuple::{Shown, Tuple},
    twins::Twins,
};

/// Events of a stream: few enough that no row grows old by itself.
const EVENTS: usize = 60;

/// Reasons nothing is counted by here: all programs are there, the kernel's table makes room for what
/// is new (so none goes without), and so few packets are rejected, in buffers with so much room, that each is answered.
const NEVER: [Reason; 5] = [
    Reason::NoFullPath,
    Reason::TableBusy,
    Reason::Stateless,
    Reason::TooManyRejects,
    Reason::NoRoom,
];

/// What was played.
#[derive(Clone, Debug, Default)]
pub(crate) struct Played {
    /// Packets drawn; each was seen by XDP and by tc if it entered.
    pub(crate) packets: usize,
    /// Seen by a program.
    runs: usize,
    passed: usize,
    dropped: usize,
    /// Rewritten, or answered.
    rewritten: usize,
    /// Of those, packets all of whose checksums had to be right.
    sound: usize,
    /// Packets that came in fragments and were whole and sound when those were put together.
    joined: usize,
    reasons: BTreeMap<Reason, u64>,
}

impl Played {
    /// Whether there was enough of everything to say something.
    pub(crate) fn covers_everything(&self) -> Result<()> {
        for (what, share) in [
            ("passed", self.passed),
            ("dropped", self.dropped),
            ("sound when rewritten", self.sound),
        ] {
            let packets = self.packets;
            ensure!(
                share * 10 > packets,
                "of {packets} packets only {share} were {what}"
            );
        }
        ensure!(self.joined > 0, "no packet came in fragments");
        for reason in Reason::ALL {
            let counted = self.reasons.contains_key(reason);
            let name = reason.name();
            ensure!(
                counted || NEVER.contains(reason),
                "nothing was counted as {name}"
            );
        }
        Ok(())
    }
}

impl fmt::Display for Played {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            packets,
            runs,
            passed,
            dropped,
            rewritten,
            sound,
            joined,
            reasons,
        } = self;
        writeln!(
            f,
            "{packets} packets in {runs} runs: {passed} passed, {dropped} dropped, {rewritten} rewritten \
             or answered, {sound} of them with checksums that had to be right, and {joined} whole from fragments"
        )?;
        let reasons = reasons.iter();
        let lines: Vec<_> = reasons
            .map(|(reason, times)| format!("{} {times}", reason.name()))
            .collect();
        f.write_str(&lines.join(", "))
    }
}

/// Plays the stream of a seed, as it enters by XDP and by tc.
pub(crate) fn play(twins: &mut Twins<'_>, seed: u64, played: &mut Played) -> Result<()> {
    let before = played.packets;
    for way in [Way::Xdp, Way::Tc] {
        played.packets = before;
        let mut random = Random::new(seed);
        let config = config(twins.config(), &mut random)?;
        twins.begin(&config)?;
        let mut history = Vec::new();
        play_by(way, twins, random, played, &mut history)
            .with_context(|| format!("by {way:?}, after\n{}", history.join("\n")))?;
        for (reason, times) in twins.counted() {
            *played.reasons.entry(reason).or_default() += times;
        }
    }
    Ok(())
}

fn play_by(
    way: Way,
    twins: &mut Twins<'_>,
    random: Random,
    played: &mut Played,
    history: &mut Vec<String>,
) -> Result<()> {
    let mut draw = Draw::new(random);
    for _ in 0..EVENTS {
        match draw.next(&twins.world, twins.known())? {
            Event::Change(change) => {
                history.push(format!("{change:?}"));
                twins.change(&change)?;
            }
            Event::Packet(place, frames) => {
                let mut outputs = Vec::new();
                for frame in &frames {
                    played.packets += 1;
                    let output = packet(twins, place, way, frame, played)
                        .with_context(|| format!("{place:?} by {way:?}: {}", Shown(frame)))?;
                    outputs.extend(output);
                    history.push(format!("{place:?}: {}", Shown(frame)));
                }
                judge_whole(&frames, &outputs, played)?;
            }
        }
    }
    twins.compare_state()
}

/// A packet on its way in or out: tc sees what XDP passes. What it became, unless it was dropped.
fn packet(
    twins: &mut Twins<'_>,
    place: Place,
    way: Way,
    frame: &[u8],
    played: &mut Played,
) -> Result<Option<Vec<u8>>> {
    let Some(output) = twins.see(place, way, frame)? else {
        return Ok(None);
    };
    judge(frame, &output, played)?;
    if way == Way::Xdp && place == Place::Enters && output.action == action::XDP_PASS {
        return packet(twins, place, Way::Tc, &output.frame, played)
            .with_context(|| format!("tc, of what XDP passed: {}", Shown(&output.frame)));
    }
    let is_dropped = matches!(output.action, action::XDP_DROP | action::TC_ACT_SHOT);
    Ok((!is_dropped).then_some(output.frame))
}

/// The fragments of a packet are still those of one, unless some were lost or came before the first: put
/// together, it is as sound as it was. Otherwise they are those of none.
fn judge_whole(before: &[Vec<u8>], after: &[Vec<u8>], played: &mut Played) -> Result<()> {
    if before.len() == 1 || before.len() != after.len() {
        return Ok(());
    }
    let Some(whole) = fragment::join(before).filter(|whole| wire::is_sound(whole)) else {
        return Ok(());
    };
    if refuses(&whole) {
        return Ok(());
    }
    let what = || format!("fragments of {}", Shown(&whole));
    let Some(after) = fragment::join(after) else {
        // The first may have been answered.
        let was_first = [before, after]
            .iter()
            .all(|parts| fragment::is_first(&parts[0]));
        ensure!(!was_first, "{} fell apart", what());
        return Ok(());
    };
    played.joined += 1;
    ensure!(
        wire::is_sound(&after),
        "{} became unsound: {}",
        what(),
        Shown(&after)
    );
    Ok(())
}

/// Whether a packet may end its flow at once, and leave nothing for fragments behind the first: a reset, or
/// an SCTP ABORT.
fn refuses(frame: &[u8]) -> bool {
    const RST: u8 = 0x04;
    const ABORT: u8 = 6;
    Tuple::of(frame).is_some_and(|Tuple { l4, proto, .. }| match proto {
        proto::TCP => frame.get(l4 + 13).is_some_and(|flags| flags & RST != 0),
        proto::SCTP => frame.get(l4 + 12) == Some(&ABORT),
        _ => false,
    })
}

/// A packet that was rewritten can be read, and its checksums are right if they were.
fn judge(before: &[u8], Output { action, frame }: &Output, played: &mut Played) -> Result<()> {
    played.runs += 1;
    if matches!(*action, action::XDP_DROP | action::TC_ACT_SHOT) {
        played.dropped += 1;
    } else if frame == before {
        played.passed += 1;
    } else {
        played.rewritten += 1;
        let was_sound = wire::is_sound(before);
        // An answer is this node's own packet, whatever it is an answer to.
        let is_answer = frame.len() != before.len();
        if is_answer || was_sound {
            played.sound += 1;
            ensure!(wire::is_sound(frame), "it became unsound: {}", Shown(frame));
        }
        // Of a fragment, or a packet that was damaged elsewhere, this much can be told.
        if wire::header_is_sound(before) {
            ensure!(
                wire::header_is_sound(frame),
                "its header became unsound: {}",
                Shown(frame)
            );
        }
        if was_sound && wire::quote_is_sound(before) {
            ensure!(
                wire::quote_is_sound(frame),
                "what it quotes became unsound: {}",
                Shown(frame)
            );
        }
    }
    Ok(())
}

/// How the node is configured in a stream.
fn config(mut config: Config, random: &mut Random) -> Result<Config> {
    if random.one_in(4) {
        // Every flow whose source is translated wants the same port.
        config.snat_last = config.snat_first;
    }
    if random.one_in(6) {
        config.flags |= flags::MASQUERADE_ALL;
    }
    if random.one_in(6) {
        config.flags |= flags::PODS_BY_ADDRESS;
        config.v4.pods = only(names::address("pod", Family::V4)?)?;
        config.v6.pods = only(names::address("pod", Family::V6)?)?;
    }
    if random.one_in(16) {
        config.v4.node = V4::default();
        config.v6.node = V6::default();
    }
    Ok(config)
}

/// The network of one address.
fn only<A: Addr>(addr: IpAddr) -> Result<Network<A>> {
    Ok(Network {
        net: A::from_ip(addr).context("an address of the other family")?,
        mask: A::from_words(|_| u32::MAX),
    })
}
