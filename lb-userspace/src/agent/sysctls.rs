//! Kernel parameters set at start: room and timeouts of connection tracking (SEMANTICS G9), and how
//! ready the kernel is to end this process.
//!
//! Fairlead's own flows need no connection tracking; those of the node's other traffic, through
//! firewalls and the CNI's masquerading, do, and clusters rely on kube-proxy to size it.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use rustix::fs::{Access, access};
use thiserror::Error;
use tracing::{info, warn};

use super::options::Conntrack;

/// A parameter cannot be set.
#[derive(Debug, Error)]
#[error(
    "cannot set {} to {value}: {source}; run with root's rights and /proc/sys and /sys writable, \
     set it beforehand, or leave it as it is by {option} 0",
    path.display()
)]
pub(super) struct SysctlError {
    path: PathBuf,
    value: u64,
    option: &'static str,
    source: io::Error,
}

/// kube-proxy's bound on what is reckoned by core.
const MOST_SCALED: u64 = 1 << 20;

/// A parameter, and the option that says what it is to be.
struct Row {
    file: &'static str,
    option: &'static str,
    value: u64,
}

/// Sets what is not as wanted; `root` is `/` but in tests.
pub(super) fn set(root: &Path, wanted: &Conntrack) -> Result<(), SysctlError> {
    let dir = root.join("proc/sys/net/netfilter");
    if !dir.join(MAX).exists() {
        info!("connection tracking is not loaded: its parameters stay as they are");
        return Ok(());
    }
    set_room(root, &dir, room(wanted, cores(root)))?;
    for row in rows(wanted).into_iter().filter(|row| row.value > 0) {
        set_one(&dir.join(row.file), &row)?;
    }
    Ok(())
}

/// A parameter that [`set`] would write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Planned {
    /// Its file.
    pub(super) path: PathBuf,
    /// Its value to be.
    pub(super) value: u64,
    /// The option that says so.
    pub(super) option: &'static str,
    /// Whether this process may write it.
    pub(super) writable: bool,
}

/// What [`set`] would write. Writes nothing; `root` is `/` but in tests.
pub(super) fn planned(root: &Path, wanted: &Conntrack) -> Vec<Planned> {
    let dir = root.join("proc/sys/net/netfilter");
    let max = dir.join(MAX);
    if !max.exists() {
        return Vec::new();
    }
    let entries = room(wanted, cores(root));
    let is_ours = entries > 0 && (read(&max) == Some(entries) || !is_read_only(&max));
    let most = is_ours.then_some((max, entries, MAX_OPTION));
    let buckets = root.join(HASHSIZE);
    let enough = read(&buckets).is_some_and(|buckets| buckets >= entries / 4);
    let buckets = (is_ours && !enough).then_some((buckets, entries / 4, MAX_OPTION));
    let rows = rows(wanted).into_iter().filter(|row| row.value > 0);
    let rows = rows.map(|row| (dir.join(row.file), row.value, row.option));
    let all = most.into_iter().chain(buckets).chain(rows);
    all.filter(|(path, value, _)| read(path) != Some(*value))
        .map(|(path, value, option)| Planned {
            writable: access(&path, Access::WRITE_OK).is_ok(),
            path,
            value,
            option,
        })
        .collect()
}

const MAX: &str = "nf_conntrack_max";
const MAX_OPTION: &str = "--conntrack-max-per-core (conntrack.maxPerCore)";
const HASHSIZE: &str = "sys/module/nf_conntrack/parameters/hashsize";

/// Entries there are to be room for; 0 leaves that as it is.
fn room(wanted: &Conntrack, cores: u64) -> u64 {
    let natural = |number: i32| u64::try_from(number).unwrap_or(0);
    match natural(wanted.max_per_core) * cores {
        0 => 0,
        scaled if scaled > MOST_SCALED => MOST_SCALED,
        scaled => scaled.max(natural(wanted.min)),
    }
}

fn set_room(root: &Path, dir: &Path, value: u64) -> Result<(), SysctlError> {
    let path = dir.join(MAX);
    if value == 0 {
        return Ok(());
    }
    if read(&path) != Some(value) && is_read_only(&path) {
        warn!(
            "{}: read-only, as in any network namespace but the host's first: it stays as it is",
            path.display()
        );
        return Ok(());
    }
    let row = Row {
        file: MAX,
        option: MAX_OPTION,
        value,
    };
    set_one(&path, &row)?;
    let buckets = root.join(HASHSIZE);
    if read(&buckets).is_some_and(|buckets| buckets >= value / 4) {
        return Ok(());
    }
    set_one(
        &buckets,
        &Row {
            value: value / 4,
            ..row
        },
    )
}

fn rows(wanted: &Conntrack) -> [Row; 5] {
    let Conntrack {
        max_per_core: _,
        min: _,
        tcp_established_timeout,
        tcp_close_wait_timeout,
        tcp_be_liberal,
        udp_timeout,
        udp_stream_timeout,
    } = wanted;
    let timeout = |file, option, span: &super::options::Span| Row {
        file,
        option,
        value: span.duration().as_secs(),
    };
    [
        timeout(
            "nf_conntrack_tcp_timeout_established",
            "--conntrack-tcp-timeout-established (conntrack.tcpEstablishedTimeout)",
            tcp_established_timeout,
        ),
        timeout(
            "nf_conntrack_tcp_timeout_close_wait",
            "--conntrack-tcp-timeout-close-wait (conntrack.tcpCloseWaitTimeout)",
            tcp_close_wait_timeout,
        ),
        Row {
            file: "nf_conntrack_tcp_be_liberal",
            option: "--conntrack-tcp-be-liberal (conntrack.tcpBeLiberal)",
            value: u64::from(*tcp_be_liberal),
        },
        timeout(
            "nf_conntrack_udp_timeout",
            "--conntrack-udp-timeout (conntrack.udpTimeout)",
            udp_timeout,
        ),
        timeout(
            "nf_conntrack_udp_timeout_stream",
            "--conntrack-udp-timeout-stream (conntrack.udpStreamTimeout)",
            udp_stream_timeout,
        ),
    ]
}

fn set_one(path: &Path, row: &Row) -> Result<(), SysctlError> {
    if read(path) == Some(row.value) {
        return Ok(());
    }
    fs::write(path, row.value.to_string()).map_err(|source| SysctlError {
        path: path.to_owned(),
        value: row.value,
        option: row.option,
        source,
    })?;
    info!("{} is {}", path.display(), row.value);
    Ok(())
}

/// Sets how ready the kernel is to end this process when memory is short. It needs a capability
/// that nothing else does, so it is no error if it cannot be.
pub(super) fn set_oom_score(root: &Path, score: i32) {
    let path = root.join("proc/self/oom_score_adj");
    let is = fs::read_to_string(&path).unwrap_or_default();
    if is.trim() == score.to_string() {
        return;
    }
    if let Err(error) = fs::write(&path, score.to_string()) {
        warn!("cannot set {} to {score}: {error}", path.display());
    }
}

fn read(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn is_read_only(path: &Path) -> bool {
    const WRITE: u32 = 0o222;
    fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & WRITE == 0)
}

/// How many cores are online: `0-3,6`.
fn cores(root: &Path) -> u64 {
    let path = root.join("sys/devices/system/cpu/online");
    let online = fs::read_to_string(path).unwrap_or_default();
    let count = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
        Some(last.checked_sub(first)? + 1)
    };
    let cores: u64 = online.trim().split(',').filter_map(count).sum();
    cores.max(1)
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    /// Files of a machine with these cores, each with what it holds.
    fn machine(cores: &str, files: &[(&str, &str)]) -> TempDir {
        let root = tempfile::tempdir().unwrap();
        let online = ("sys/devices/system/cpu/online", cores);
        for (file, text) in files.iter().chain([&online]) {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("{text}\n")).unwrap();
        }
        root
    }

    const FILES: [(&str, &str); 7] = [
        ("proc/sys/net/netfilter/nf_conntrack_max", "65536"),
        (
            "proc/sys/net/netfilter/nf_conntrack_tcp_timeout_established",
            "432000",
        ),
        (
            "proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close_wait",
            "60",
        ),
        ("proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal", "0"),
        ("proc/sys/net/netfilter/nf_conntrack_udp_timeout", "30"),
        (
            "proc/sys/net/netfilter/nf_conntrack_udp_timeout_stream",
            "120",
        ),
        (HASHSIZE, "16384"),
    ];

    fn shown(root: &TempDir) -> String {
        let files = FILES.iter().map(|(file, _)| {
            let text = fs::read_to_string(root.path().join(file)).unwrap();
            let (_, name) = file.rsplit_once('/').unwrap();
            format!("{name} {}\n", text.trim())
        });
        files.collect()
    }

    #[test]
    fn what_is_not_as_wanted_is_set() {
        let root = machine("0-7", &FILES);
        set(root.path(), &Conntrack::default()).unwrap();
        insta::assert_snapshot!(shown(&root), @r"
        nf_conntrack_max 262144
        nf_conntrack_tcp_timeout_established 86400
        nf_conntrack_tcp_timeout_close_wait 3600
        nf_conntrack_tcp_be_liberal 0
        nf_conntrack_udp_timeout 30
        nf_conntrack_udp_timeout_stream 120
        hashsize 65536
        ");
    }

    #[test]
    fn what_would_be_set_is_what_is_set() {
        let root = machine("0-7", &FILES);
        let files = |planned: Vec<Planned>| {
            let paths = planned.into_iter().map(|it| it.path);
            paths
                .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
                .collect::<Vec<_>>()
        };
        let expected = [
            "nf_conntrack_max",
            "hashsize",
            "nf_conntrack_tcp_timeout_established",
            "nf_conntrack_tcp_timeout_close_wait",
        ];
        let before = shown(&root);
        assert_eq!(files(planned(root.path(), &Conntrack::default())), expected);
        assert_eq!(shown(&root), before);
        set(root.path(), &Conntrack::default()).unwrap();
        assert_eq!(planned(root.path(), &Conntrack::default()), []);
        assert_eq!(planned(machine("0", &[]).path(), &Conntrack::default()), []);
    }

    #[test]
    fn all_may_be_asked_for_and_nothing_may() {
        let root = machine("0", &FILES);
        let all = Conntrack {
            max_per_core: 10,
            min: 20,
            tcp_established_timeout: "5m".parse().unwrap(),
            tcp_close_wait_timeout: "1m".parse().unwrap(),
            tcp_be_liberal: true,
            udp_timeout: "10s".parse().unwrap(),
            udp_stream_timeout: "20s".parse().unwrap(),
        };
        set(root.path(), &all).unwrap();
        insta::assert_snapshot!(shown(&root), @r"
        nf_conntrack_max 20
        nf_conntrack_tcp_timeout_established 300
        nf_conntrack_tcp_timeout_close_wait 60
        nf_conntrack_tcp_be_liberal 1
        nf_conntrack_udp_timeout 10
        nf_conntrack_udp_timeout_stream 20
        hashsize 16384
        ");
        let nothing = Conntrack {
            max_per_core: 0,
            min: 1 << 20,
            tcp_established_timeout: "0".parse().unwrap(),
            tcp_close_wait_timeout: "0".parse().unwrap(),
            tcp_be_liberal: false,
            udp_timeout: "0".parse().unwrap(),
            udp_stream_timeout: "0".parse().unwrap(),
        };
        let before = shown(&root);
        set(root.path(), &nothing).unwrap();
        assert_eq!(shown(&root), before);
    }

    #[test]
    fn room_goes_by_cores_within_bounds() {
        let cases = [
            ("0", 1 << 17),
            ("0-3", 1 << 17),
            ("0-3,6", 5 << 15),
            ("0-31", 1 << 20),
            ("0-63", 1 << 20),
        ];
        for (online, expected) in cases {
            let root = machine(online, &[]);
            let entries = room(&Conntrack::default(), cores(root.path()));
            assert_eq!(entries, expected, "{online}");
        }
    }

    #[test]
    fn what_cannot_be_set_is_an_error_that_says_what_to_do() {
        // A directory in a file's place is what even root cannot write to.
        let root = machine("0", &FILES);
        let file = root.path().join(FILES[1].0);
        fs::remove_file(&file).unwrap();
        fs::create_dir(&file).unwrap();
        let error = set(root.path(), &Conntrack::default()).unwrap_err();
        let text = error
            .to_string()
            .replace(&root.path().display().to_string(), "");
        insta::assert_snapshot!(text, @"cannot set /proc/sys/net/netfilter/nf_conntrack_tcp_timeout_established to 86400: Is a directory (os error 21); run with root's rights and /proc/sys and /sys writable, set it beforehand, or leave it as it is by --conntrack-tcp-timeout-established (conntrack.tcpEstablishedTimeout) 0");
    }

    #[test]
    fn the_hosts_limit_is_left_alone_where_it_is_not_ours_to_set() {
        let root = machine("0", &FILES);
        let max = root.path().join(FILES[0].0);
        fs::set_permissions(&max, fs::Permissions::from_mode(0o444)).unwrap();
        set(root.path(), &Conntrack::default()).unwrap();
        assert!(shown(&root).starts_with("nf_conntrack_max 65536\n"));
    }

    #[test]
    fn nothing_is_set_where_connections_are_not_tracked() {
        let root = machine("0", &[]);
        set(root.path(), &Conntrack::default()).unwrap();
        assert!(!root.path().join("proc").exists());
    }

    #[test]
    fn the_oom_score_is_set() {
        let root = machine("0", &[("proc/self/oom_score_adj", "0")]);
        set_oom_score(root.path(), -999);
        let path = root.path().join("proc/self/oom_score_adj");
        assert_eq!(fs::read_to_string(path).unwrap(), "-999");
    }
}
