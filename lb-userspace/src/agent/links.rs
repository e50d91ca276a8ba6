//! Pinned BPF links: which program they keep on which interface.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use aya::programs::links::{FdLink, LinkError, PinnedLink};
use lb_common::maps::programs;
use tracing::debug;

use crate::{bpf, pins::Pins};

/// What the kernel says of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Attachment {
    /// Number of the link.
    id: u32,
    /// Where it is; none once that is gone.
    place: Option<Place>,
}

/// What a link puts its program on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// An interface, by its index.
    Interface(u32),
    /// A cgroup, by its number.
    Cgroup(u64),
}

/// A file in the links directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pin {
    /// The file.
    pub(super) path: PathBuf,
    /// Name of the program; empty if the file's name is none of ours.
    pub(super) program: String,
}

/// Every pinned link, programs that see packets first in front: the order to remove them in.
pub(super) fn list(pins: &Pins) -> io::Result<Vec<Pin>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(pins.links())? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let program = name.split_once('@').map_or("", |(program, _)| program);
        found.push(Pin {
            program: program.to_owned(),
            path,
        });
    }
    found.sort_by_key(|pin| (rank(&pin.program), pin.path.clone()));
    Ok(found)
}

/// Takes a pinned link's program off what it is on, and removes the pin; that there is none is fine.
pub(super) fn remove(pin: &Path) -> io::Result<()> {
    if let Err(error) = bpf::detach(pin)
        && error.kind() != io::ErrorKind::NotFound
    {
        // It goes with the pin, a little later.
        debug!("{} is not detached at once: {error}", pin.display());
    }
    match fs::remove_file(pin) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Translation must not outlive the reverse translation: XDP and ingress go before egress, what
/// leads sockets before what names their services.
fn rank(program: &str) -> usize {
    let mut known = programs::SOCKETS.iter().chain(&programs::PACKETS);
    known
        .position(|known| *known == program)
        .unwrap_or(usize::MAX)
}

/// Opens a pinned link that is still at `place`; none if there is no pin, or it is stale.
pub(super) fn open_on(path: &Path, place: Place) -> Result<Option<FdLink>, LinkError> {
    if !path.exists() {
        return Ok(None);
    }
    let link = FdLink::from(PinnedLink::from_pin(path)?);
    let id = link.info()?.id();
    let live = held()
        .into_iter()
        .any(|held| held.id == id && held.place == Some(place));
    Ok(live.then_some(link))
}

/// The links this process holds open. The place of a link is not in the structures aya
/// shows, but the kernel tells it in `/proc/self/fdinfo`.
fn held() -> Vec<Attachment> {
    let Ok(entries) = fs::read_dir("/proc/self/fdinfo") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| fs::read_to_string(entry.ok()?.path()).ok())
        .filter_map(|text| parse(&text))
        .collect()
}

/// Reads an `fdinfo` file; none if it is not that of a link of a kind we make.
fn parse(fdinfo: &str) -> Option<Attachment> {
    let field = |name: &str| {
        fdinfo
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find_map(|(key, value)| (key == name).then(|| value.trim()))
    };
    let number = |name| -> Option<u64> { field(name)?.parse().ok() };
    let interface = || match number("ifindex")? {
        0 => Some(None),
        index => Some(Some(Place::Interface(index.try_into().ok()?))),
    };
    let cgroup = || match number("cgroup_id")? {
        0 => Some(None),
        cgroup => Some(Some(Place::Cgroup(cgroup))),
    };
    Some(Attachment {
        id: number("link_id")?.try_into().ok()?,
        place: interface().or_else(cgroup)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fdinfo_names_the_interface_of_a_link() {
        let text = "pos:\t0\nflags:\t02000002\nmnt_id:\t15\nino:\t1057\nlink_type:\txdp\n\
                    link_id:\t7\nprog_tag:\t3b185187f1855c4c\nprog_id:\t25\nifindex:\t3\n";
        let link = Attachment {
            id: 7,
            place: Some(Place::Interface(3)),
        };
        assert_eq!(parse(text), Some(link));
    }

    #[test]
    fn a_link_outlives_its_interface() {
        let text = "link_type:\ttcx\nlink_id:\t8\nprog_id:\t25\nifindex:\t0\nattach_type:\t46\n";
        let link = Attachment { id: 8, place: None };
        assert_eq!(parse(text), Some(link));
    }

    #[test]
    fn fdinfo_names_the_cgroup_of_a_link() {
        let on = |cgroup| {
            parse(&format!(
                "link_type:\tcgroup\nlink_id:\t9\ncgroup_id:\t{cgroup}\n"
            ))
        };
        let at = |place| Some(Attachment { id: 9, place });
        assert_eq!(on(4711), at(Some(Place::Cgroup(4711))));
        assert_eq!(on(0), at(None));
    }

    #[test]
    fn other_descriptors_are_no_links() {
        assert_eq!(parse("pos:\t0\nflags:\t02\nmap_type:\t1\n"), None);
        assert_eq!(
            parse("link_type:\tnetns\nlink_id:\t9\nnetns_ino:\t1\n"),
            None
        );
    }
}
