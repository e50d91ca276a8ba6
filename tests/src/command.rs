//! Running programs, with errors that say which one failed and what it said.

use std::{
    io::Write,
    process::{Command, Output, Stdio},
};

use anyhow::{Context, Result, bail};

/// Runs a command to its end and returns what it wrote; any exit code but 0 is an error.
pub fn run(command: &mut Command) -> Result<Output> {
    finish(command, None)
}

/// Like [`run`], with `input` on its standard input.
pub fn feed(command: &mut Command, input: &str) -> Result<Output> {
    finish(command, Some(input))
}

fn finish(command: &mut Command, input: Option<&str>) -> Result<Output> {
    let what = describe(command);
    let output = collect(command, input).with_context(|| format!("cannot run `{what}`"))?;
    if !output.status.success() {
        bail!("`{what}` failed ({}): {}", output.status, said(&output));
    }
    Ok(output)
}

fn collect(command: &mut Command, input: Option<&str>) -> std::io::Result<Output> {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.stdin(if input.is_some() {
        Stdio::piped()
    } else {
        Stdio::null()
    });
    let mut child = command.spawn()?;
    if let (Some(mut stdin), Some(input)) = (child.stdin.take(), input) {
        stdin.write_all(input.as_bytes())?;
    }
    child.wait_with_output()
}

fn describe(command: &Command) -> String {
    let program = command.get_program().to_string_lossy();
    command.get_args().fold(program.into_owned(), |line, arg| {
        line + " " + &arg.to_string_lossy()
    })
}

fn said(output: &Output) -> String {
    let text = if output.stderr.is_empty() {
        &output.stdout
    } else {
        &output.stderr
    };
    String::from_utf8_lossy(text).trim().to_owned()
}
