//! `lbctl` as a process: exit status and what goes where.

use std::{
    io,
    process::{Command, Stdio},
};

fn lbctl() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lbctl"));
    command.env_remove("FAIRLEAD_BPFFS");
    command
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    let output = lbctl()
        .arg("version")
        .stdout(writer)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
        .wait_with_output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(output.stderr, b"");
}

#[test]
fn without_maps_the_exit_status_is_1_and_nothing_is_printed() {
    let output = lbctl()
        .args(["maps", "dump"])
        .env("FAIRLEAD_BPFFS", "/nonexistent")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(output.stdout, b"");
    insta::assert_snapshot!(
        String::from_utf8(output.stderr).unwrap(),
        @"lbctl: no Fairlead maps under /nonexistent/fairlead/v5: is lb-agent running on this node (or was it given another --bpffs)?"
    );
}

#[test]
fn a_wrong_command_line_exits_with_2() {
    for wrong in [
        &["maps", "dump", "conntrack"][..],
        &["service", "list", "-A", "-n", "shop"],
        &["status", "-o", "xml"],
    ] {
        let output = lbctl().args(wrong).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
    }
}
