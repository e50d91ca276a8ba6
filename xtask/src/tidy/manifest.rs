//! Rules on the workspace's manifest.

use super::{File, Finding};

/// Each version of a dependency is pinned: an update is a change one can see.
pub(super) fn check(file: &File) -> Vec<Finding> {
    let mut section = "";
    let mut findings = Vec::new();
    for (index, line) in file.text.lines().enumerate() {
        if line.starts_with('[') {
            section = line;
        } else if section == "[workspace.dependencies]"
            && let Some((name, version)) = dependency(line)
            && !version.starts_with('=')
        {
            let message = format!("{name} is not pinned: write `={version}` in full");
            findings.push(Finding::new(&file.path, index + 1, message));
        }
    }
    findings
}

/// The name and version of a dependency that has one.
fn dependency(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.split_once('=')?;
    let value = match value.trim().strip_prefix('{') {
        Some(table) => table.split_once("version = ")?.1,
        None => value.trim(),
    };
    let version = value.strip_prefix('"')?.split('"').next()?;
    Some((name.trim(), version))
}

#[cfg(test)]
mod tests {
    use super::super::file;
    use super::*;

    #[test]
    fn versions_are_pinned() {
        let text = "\
[workspace.dependencies]
ours = { path = \"ours\" }
good = \"=1.2.3\"
fine = { version = \"=1.2.3\", features = [\"x\"] }
loose = \"1\"
free = { default-features = false, version = \"1.2\" }
[profile.dev]
other = \"1\"
";
        let findings = check(&file("Cargo.toml", text));
        assert_eq!(
            findings,
            [
                Finding::new("Cargo.toml", 5, "loose is not pinned: write `=1` in full"),
                Finding::new("Cargo.toml", 6, "free is not pinned: write `=1.2` in full"),
            ]
        );
    }
}
