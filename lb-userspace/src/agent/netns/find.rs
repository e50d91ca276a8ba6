//! The network namespaces behind interfaces.
//!
//! The kernel numbers the namespaces that another one has to do with, and tells of a veth the number
//! of the one its other end is in (`IFLA_LINK_NETNSID`). It opens none by its number, but tells the
//! number of one that is open (`RTM_GETNSID`). So all that can be seen are asked: those with a name,
//! as container runtimes keep them for pods, then those of processes, which takes a view of the
//! host's processes.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fs::{self, File},
    io,
    os::{
        fd::{AsFd as _, AsRawFd as _},
        unix::fs::MetadataExt as _,
    },
    path::PathBuf,
};

use rtnetlink::{
    packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkPayload},
    packet_route::{
        RouteNetlinkMessage,
        nsid::{NsidAttribute, NsidMessage},
    },
    sys::protocols::NETLINK_ROUTE,
};

use crate::agent::netlink::Asker;

/// Where namespaces have names (`ip-netns(8)`).
const NAMES: &str = "/run/netns";
const PROCESSES: &str = "/proc";

/// Opens the namespaces that have these numbers in the one of this thread, as far as they can be
/// seen. One that is open does not go away: they are not to be kept.
pub(in crate::agent) fn find(numbers: &BTreeSet<i32>) -> io::Result<BTreeMap<i32, File>> {
    let mut asker = Asker::open(NETLINK_ROUTE)?;
    let mut found = BTreeMap::new();
    let mut known = HashSet::new();
    for path in named().chain(of_processes()) {
        if found.len() == numbers.len() {
            break;
        }
        // What cannot be opened is gone, or not ours to see.
        if let Ok(inode) = fs::metadata(&path)
            && known.insert((inode.dev(), inode.ino()))
            && let Ok(file) = File::open(&path)
            && let Ok(Some(number)) = number(&mut asker, &file)
            && numbers.contains(&number)
        {
            found.insert(number, file);
        }
    }
    Ok(found)
}

fn named() -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(NAMES).into_iter().flatten().flatten();
    entries.map(|entry| entry.path())
}

fn of_processes() -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(PROCESSES).into_iter().flatten().flatten();
    let processes = entries.filter(|entry| {
        let name = entry.file_name();
        name.as_encoded_bytes().iter().all(u8::is_ascii_digit)
    });
    processes.map(|entry| entry.path().join("ns/net"))
}

/// The number of an open namespace; none if it has none here, or is no namespace.
fn number(asker: &mut Asker, netns: &File) -> io::Result<Option<i32>> {
    let mut message = NsidMessage::default();
    let descriptor = netns.as_fd().as_raw_fd().cast_unsigned();
    message.attributes.push(NsidAttribute::Fd(descriptor));
    let message = RouteNetlinkMessage::GetNsId(message);
    asker.send(NLM_F_REQUEST | NLM_F_ACK, message)?;
    let mut number = None;
    asker.answers(|message| {
        if let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNsId(answer)) = message.payload
        {
            number = answer
                .attributes
                .iter()
                .find_map(|attribute| match attribute {
                    NsidAttribute::Id(id) if *id >= 0 => Some(*id),
                    _ => None,
                });
        }
    })?;
    Ok(number)
}
