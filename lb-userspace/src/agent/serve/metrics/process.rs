//! What /proc tells of the agent itself, under the names every Prometheus client library uses.

use procfs::{
    ProcError, WithCurrentSystemInfo as _,
    process::{LimitValue, Process},
};

use super::{
    definitions as d,
    family::{Family, number, single},
};

/// The `process_` metrics; none where /proc cannot be read.
pub(super) fn families() -> Vec<Family> {
    read().unwrap_or_default()
}

fn read() -> Result<Vec<Family>, ProcError> {
    let process = Process::myself()?;
    let stat = process.stat()?;
    let ticks = number(procfs::ticks_per_second());
    let cpu = number(stat.utime + stat.stime) / ticks;
    let started = number(procfs::boot_time_secs()?) + number(stat.starttime) / ticks;
    let mut families = vec![
        single(&d::CPU, cpu),
        single(&d::START, started),
        single(&d::RESIDENT, number(stat.rss_bytes().get())),
        single(&d::VIRTUAL, number(stat.vsize)),
        single(&d::THREADS, number(stat.num_threads.unsigned_abs())),
        single(&d::OPEN_FILES, number(process.fd_count()? as u64)),
    ];
    if let LimitValue::Value(most) = process.limits()?.max_open_files.soft_limit {
        families.push(single(&d::MAX_FILES, number(most)));
    }
    Ok(families)
}
