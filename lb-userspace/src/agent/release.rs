//! The kernel's release: one that is too old is refused with what it lacks (SEMANTICS K13), where
//! else attaching or a packet would fail for reasons that nobody understands.

use std::fmt;

use thiserror::Error;

/// What is needed, with the release that has it first.
const NEEDED: [(Release, &str); 2] = [
    (Release(6, 6), "tcx links, by which programs are attached"),
    (Release(6, 7), "source addresses from bpf_fib_lookup"),
];

/// The kernel is too old.
#[derive(Debug, PartialEq, Eq, Error)]
#[error(
    "the kernel's release {release} is too old: it lacks {}; run Linux {} or newer, or, if this one \
     has it all the same, say --check-kernel=false",
    listed(lacks),
    newest()
)]
pub(super) struct TooOld {
    release: String,
    lacks: Vec<(Release, &'static str)>,
}

/// Its first two numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Release(u32, u32);

/// Checks the kernel that runs.
pub(super) fn check() -> Result<(), TooOld> {
    check_release(&rustix::system::uname().release().to_string_lossy())
}

/// A release without two numbers says nothing.
fn check_release(text: &str) -> Result<(), TooOld> {
    let Some(release) = Release::parse(text) else {
        return Ok(());
    };
    let lacks = NEEDED.into_iter().filter(|(first, _)| release < *first);
    let lacks: Vec<_> = lacks.collect();
    if lacks.is_empty() {
        return Ok(());
    }
    let release = text.to_owned();
    Err(TooOld { release, lacks })
}

impl Release {
    fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split(|c: char| !c.is_ascii_digit());
        let mut next = || numbers.next()?.parse().ok();
        Some(Self(next()?, next()?))
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(major, minor) = self;
        write!(f, "{major}.{minor}")
    }
}

fn listed(lacks: &[(Release, &str)]) -> String {
    let named = lacks
        .iter()
        .map(|(first, what)| format!("{what} ({first})"));
    named.collect::<Vec<_>>().join(", and ")
}

/// The release that has everything.
fn newest() -> Release {
    let releases = NEEDED.map(|(first, _)| first);
    releases.into_iter().fold(Release(0, 0), Release::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn k13_what_an_old_kernel_lacks_is_named() {
        let said = |release| check_release(release).map_err(|error| error.to_string());
        for good in ["6.7.0", "6.18.44-fc", "7.0.0-rc1", "10.1", "custom"] {
            assert_eq!(said(good), Ok(()), "{good}");
        }
        insta::assert_snapshot!(said("6.6.99-lts").unwrap_err(), @"the kernel's release 6.6.99-lts is too old: it lacks source addresses from bpf_fib_lookup (6.7); run Linux 6.7 or newer, or, if this one has it all the same, say --check-kernel=false");
        insta::assert_snapshot!(said("5.15.0-101-generic").unwrap_err(), @"the kernel's release 5.15.0-101-generic is too old: it lacks tcx links, by which programs are attached (6.6), and source addresses from bpf_fib_lookup (6.7); run Linux 6.7 or newer, or, if this one has it all the same, say --check-kernel=false");
    }
}
