//! What an account asks of the API server, against what its role grants.

use std::{
    collections::BTreeSet,
    fmt, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use lb_userspace::source::kubernetes::{Access, Event, Options, Recorder, Requests, watch};
use serde_json::{Value, json};
use tests::{
    cluster::eventually,
    kube::{ADDRESS, ControlPlane},
};
use tokio::sync::mpsc;

use super::{NAME, NAMESPACE, SOON, World, object};

/// A thing to be allowed, or not.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Right {
    verb: String,
    resource: String,
    group: String,
}

impl fmt::Display for Right {
    /// As `kubectl auth can-i` takes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            verb,
            resource,
            group,
        } = self;
        let dot = if group.is_empty() { "" } else { "." };
        write!(f, "{verb} {resource}{dot}{group}")
    }
}

/// What the API server writes down of the account's requests.
pub(super) struct Audit {
    user: String,
    log: PathBuf,
}

impl Audit {
    /// Files in `dir`, and the flags by which an API server uses them.
    pub(super) fn prepare(dir: &Path, namespace: &str, name: &str) -> Result<(Self, Vec<String>)> {
        let user = format!("system:serviceaccount:{namespace}:{name}");
        let (policy, log) = (dir.join("audit-policy.json"), dir.join("audit.log"));
        let rules = json!({
            "apiVersion": "audit.k8s.io/v1",
            "kind": "Policy",
            "omitStages": ["RequestReceived"],
            "rules": [{ "level": "Metadata", "users": [user] }, { "level": "None" }],
        });
        fs::write(&policy, rules.to_string()).context("cannot write the audit policy")?;
        let flags = vec![
            format!("--audit-policy-file={}", policy.display()),
            format!("--audit-log-path={}", log.display()),
        ];
        Ok((Self { user, log }, flags))
    }

    /// How much has been written down so far.
    pub(super) fn end(&self) -> usize {
        fs::read(&self.log).map_or(0, |text| text.len())
    }

    /// Whether what was asked since is all that is granted, and nothing else.
    pub(super) fn judge(&self, since: usize, granted: &BTreeSet<Right>) -> Result<()> {
        let mut asked = BTreeSet::new();
        for (right, allowed) in self.requests(since)? {
            ensure!(allowed, "{} may not {right}", self.user);
            asked.insert(right);
        }
        let unused: Vec<_> = granted.difference(&asked).map(Right::to_string).collect();
        ensure!(unused.is_empty(), "granted but not asked for: {unused:?}");
        Ok(())
    }

    /// What was asked for, and whether that was allowed.
    fn requests(&self, since: usize) -> Result<Vec<(Right, bool)>> {
        let text = fs::read_to_string(&self.log).context("no audit log")?;
        let text = text.get(since..).context("the audit log has shrunk")?;
        // The last line may be on its way.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let mut requests = Vec::new();
        for line in whole.lines() {
            let event: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
            let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let what = &event["objectRef"];
            ensure!(what.is_object(), "asked for what is no object: {line}");
            let right = Right {
                verb: word(&event["verb"]),
                resource: word(&what["resource"]),
                group: word(&what["apiGroup"]),
            };
            let decision = &event["annotations"]["authorization.k8s.io/decision"];
            requests.push((right, decision == "allow"));
        }
        Ok(requests)
    }
}

/// The role's rules as the API server has them.
fn rules(control: &ControlPlane) -> Result<Vec<Value>> {
    let role = object(control, "clusterrole", NAME)?;
    let rules = role["rules"].as_array().context("a role without rules")?;
    Ok(rules.clone())
}

/// What the role grants, one by one.
pub(super) fn granted(control: &ControlPlane) -> Result<BTreeSet<Right>> {
    let mut rights = BTreeSet::new();
    for rule in rules(control)? {
        for group in words(&rule["apiGroups"])? {
            for resource in words(&rule["resources"])? {
                for verb in words(&rule["verbs"])? {
                    rights.insert(Right {
                        verb,
                        resource: resource.clone(),
                        group: group.clone(),
                    });
                }
            }
        }
    }
    Ok(rights)
}

fn words(value: &Value) -> Result<Vec<String>> {
    Ok(serde_json::from_value(value.clone())?)
}

/// Whatever is taken from the role is missed, and the audit tells.
pub(super) fn without_verb(world: &mut World) -> Result<()> {
    let rights = granted(world.control())?;
    ensure!(rights.len() == 9, "{rights:#?}");
    for right in &rights {
        let rest: BTreeSet<_> = rights.iter().filter(|it| *it != right).collect();
        let outcome = grant(world, &rest)
            .and_then(|()| until_allowed(world, right, false))
            .and_then(|()| is_missed(world, right, &rights));
        grant(world, &rights.iter().collect())?;
        until_allowed(world, right, true)?;
        outcome.with_context(|| format!("without {right}"))?;
    }
    let since = world.audit.end();
    asking(world, || world.audit.judge(since, &rights))
}

/// Runs what asks, with the account's rights, until what it asked for is told to be as wanted.
fn asking(world: &World, wanted: impl Fn() -> Result<()>) -> Result<()> {
    let control = world.control();
    let access = Access {
        kubeconfig: Some(world.account.kubeconfig(ADDRESS)?),
        server: None,
    };
    let options = Options {
        access: access.clone(),
        node_name: "node-a".to_owned(),
        external_ips: true,
        pods: false,
        requests: Requests::default(),
    };
    let (sender, _batches) = mpsc::channel(1024);
    let source = control.inside().spawn(watch(options, sender))?;
    let recorder = control
        .inside()
        .run(async { Recorder::new(access, "node-a", Requests::default()) })?;
    recorder.publish(Event::starting("node-a"));
    let outcome = eventually(SOON, wanted);
    source.abort();
    outcome
}

fn is_missed(world: &World, right: &Right, rights: &BTreeSet<Right>) -> Result<()> {
    let since = world.audit.end();
    let told = format!("may not {right}");
    asking(world, || match world.audit.judge(since, rights) {
        Err(error) if error.to_string().ends_with(&told) => Ok(()),
        Err(error) => Err(error),
        Ok(()) => bail!("nobody missed it"),
    })
}

/// Has the role grant these and no others.
fn grant(world: &World, rights: &BTreeSet<&Right>) -> Result<()> {
    let rules: Vec<_> = rights
        .iter()
        .map(|right| {
            json!({
                "apiGroups": [right.group],
                "resources": [right.resource],
                "verbs": [right.verb],
            })
        })
        .collect();
    let patch = json!({ "rules": rules }).to_string();
    let role = [
        "patch",
        "clusterrole",
        NAME,
        "--type=merge",
        "--patch",
        &patch,
    ];
    world.control().kubectl(&role, "").map(drop)
}

/// The authorizer follows roles a moment later.
fn until_allowed(world: &World, right: &Right, allowed: bool) -> Result<()> {
    let Right {
        verb,
        resource,
        group,
    } = right;
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": format!("system:serviceaccount:{NAMESPACE}:{NAME}"),
            "resourceAttributes": { "verb": verb, "resource": resource, "group": group },
        },
    })
    .to_string();
    eventually(SOON, || {
        let create = ["create", "--output=json", "--filename=-"];
        let answer: Value = serde_json::from_str(&world.control().kubectl(&create, &review)?)?;
        let is = &answer["status"]["allowed"];
        ensure!(*is == allowed, "whether it may {right}: {is}");
        Ok(())
    })
}
