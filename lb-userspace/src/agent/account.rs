//! The agent's account of itself, in the pinned `STATUS` map.

use std::process;

use aya::maps::{Array, MapData, MapError};
use lb_common::maps::STATUS_SIZE;
use tracing::debug;

use super::{options::Options, programs::StatusValue};
use crate::{
    status::{Loading, Status},
    timestamp::now_text,
};

/// Bytes before the text: its length.
const LENGTH: usize = size_of::<u32>();

/// Writes the account when it changed.
pub(super) struct Account {
    map: Array<MapData, StatusValue>,
    written: Option<Status>,
}

impl Account {
    /// Begins with what there is to say before the programs are loaded.
    pub(super) fn begun(map: Array<MapData, StatusValue>, options: &Options) -> Self {
        let mut account = Self { map, written: None };
        let status = Status {
            node: options.node_name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: process::id(),
            started: now_text(),
            source: options.source.to_string(),
            loading: Loading::DataPath,
            ..Status::default()
        };
        if let Err(error) = account.publish(status) {
            debug!("the status is not written before the programs are loaded: {error}");
        }
        account
    }

    /// Makes this the account.
    pub(super) fn publish(&mut self, status: Status) -> Result<(), MapError> {
        if self.written.as_ref() == Some(&status) {
            return Ok(());
        }
        let Some(value) = encode(&status) else {
            debug!("status does not fit its map");
            return Ok(());
        };
        self.map.set(0, &value, 0)?;
        self.written = Some(status);
        Ok(())
    }
}

/// How many problems and interfaces are told of, tried in this order until the text fits.
const LIMITS: [usize; 4] = [usize::MAX, 512, 64, 8];

/// Length and JSON text; none if even the shortest text is too long.
fn encode(status: &Status) -> Option<Box<StatusValue>> {
    LIMITS.into_iter().find_map(|limit| {
        let json = serde_json::to_vec(&shortened(status.clone(), limit)).ok()?;
        pack(&json)
    })
}

fn shortened(mut status: Status, limit: usize) -> Status {
    let left_off = status.problems.len().saturating_sub(limit);
    status.problems.truncate(limit);
    status.interfaces.truncate(limit);
    if left_off > 0 {
        let line = format!("{left_off} more problems: see the agent's log");
        status.problems.push(line);
    }
    status
}

fn pack(json: &[u8]) -> Option<Box<StatusValue>> {
    if json.len() > STATUS_SIZE as usize - LENGTH {
        return None;
    }
    let length = json.len() as u32;
    let mut bytes = vec![0; STATUS_SIZE as usize];
    bytes[..LENGTH].copy_from_slice(&length.to_ne_bytes());
    bytes[LENGTH..LENGTH + json.len()].copy_from_slice(json);
    bytes.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(status: &Status) -> Status {
        let value = encode(status).unwrap();
        let (length, text) = value.split_first_chunk().unwrap();
        let length = u32::from_ne_bytes(*length) as usize;
        serde_json::from_slice(&text[..length]).unwrap()
    }

    #[test]
    fn a_status_is_read_back_as_written() {
        let status = Status {
            node: "node-a".into(),
            problems: vec!["one".into(), "two".into()],
            ..Status::default()
        };
        assert_eq!(decoded(&status), status);
    }

    #[test]
    fn too_many_problems_are_counted() {
        let status = Status {
            problems: (0..2000).map(|number| format!("{number:0>100}")).collect(),
            ..Status::default()
        };
        let problems = decoded(&status).problems;
        assert_eq!(problems.len(), 513);
        assert_eq!(problems[512], "1488 more problems: see the agent's log");
    }
}
