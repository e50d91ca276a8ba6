//! Starting other programs: told to the reader, checked, their failure described.

use std::{
    io::{BufRead as _, BufReader},
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Command, ExitStatus, Stdio},
};

use anyhow::{Context as _, Result, bail};

/// The top of the repository.
pub(crate) fn root() -> PathBuf {
    let xtask = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    xtask.parent().map_or_else(PathBuf::new, PathBuf::from)
}

/// The cargo of the pinned toolchain, at the top of the repository.
pub(crate) fn cargo() -> Command {
    program("cargo")
}

/// A program, started at the top of the repository.
pub(crate) fn program(name: &str) -> Command {
    let mut command = Command::new(name);
    command.current_dir(root());
    command
}

/// Prints the command, runs it on this terminal and fails when it does.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    announce(command);
    let status = command.status().with_context(|| cannot_start(command))?;
    succeeded(command, status)
}

/// Like [`run`], and hands over each line of the command's standard output as it comes.
pub(crate) fn run_reading(command: &mut Command, mut line: impl FnMut(&str)) -> Result<()> {
    announce(command);
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| cannot_start(command))?;
    if let Some(stdout) = child.stdout.take() {
        for bytes in BufReader::new(stdout).split(b'\n') {
            line(&String::from_utf8_lossy(&bytes?));
        }
    }
    succeeded(command, child.wait()?)
}

/// Becomes the command: signals then reach it alone, and its exit code is ours.
pub(crate) fn become_it(command: &mut Command) -> Result<()> {
    announce(command);
    Err(command.exec()).with_context(|| cannot_start(command))
}

/// On standard error, since what a verb prints may be read by a program.
fn announce(command: &Command) {
    eprintln!("$ {}", command_line(command));
}

fn succeeded(command: &Command, status: ExitStatus) -> Result<()> {
    if status.success() {
        return Ok(());
    }
    // The whole line stands above what the program itself had to say.
    bail!("`{}` failed: {status}", summary(command));
}

fn cannot_start(command: &Command) -> String {
    format!("cannot start `{}`", summary(command))
}

/// What a quick command prints; fails when the command does.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| cannot_start(command))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let line = command_line(command);
        bail!("`{line}` failed: {}: {}", output.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Whether a quick command can be started and succeeds.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    output(command).is_ok()
}

/// The command as one would type it, with the variables that are set for it.
pub(crate) fn command_line(command: &Command) -> String {
    let variables = command.get_envs().filter_map(|(name, value)| {
        let value = quoted(&value?.to_string_lossy());
        Some(format!("{}={value}", name.to_string_lossy()))
    });
    let words = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| quoted(&word.to_string_lossy()));
    variables.chain(words).collect::<Vec<_>>().join(" ")
}

/// The program and its verb.
fn summary(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args().take(1))
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=+./:,@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_can_be_pasted_into_a_shell() {
        let mut command = Command::new("cargo");
        command.args(["test", "--", "a b", "it's", ""]);
        command.env("RUSTFLAGS", "-Dwarnings").env_remove("HOME");
        assert_eq!(
            command_line(&command),
            r"RUSTFLAGS=-Dwarnings cargo test -- 'a b' 'it'\''s' ''"
        );
    }
}
