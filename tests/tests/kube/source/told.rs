//! What a source tells, and objects for it to tell of.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Result, bail, ensure};
use lb_userspace::{
    model::{Batch, Change},
    source::kubernetes::{Access, Options, Requests, watch},
};
use tests::{cluster::eventually, kube::ControlPlane};
use tokio::{sync::mpsc, task::JoinHandle};

/// How soon a change has to be told, on a busy machine.
pub(super) const SOON: Duration = Duration::from_secs(10);

/// The user with the rights that the built-in role of kube-proxies gives, and no others (K14).
pub(super) const PROXY: &str = "system:kube-proxy";

/// What a source has told, put together.
pub(super) struct Told {
    pub(super) batches: mpsc::Receiver<Batch>,
    source: JoinHandle<()>,
    /// State of Services and slices, by kind and name.
    pub(super) objects: BTreeMap<String, String>,
    pub(super) problems: Vec<String>,
    /// Batches that came, except those before anything was known.
    pub(super) count: usize,
    /// What went, as it went.
    pub(super) gone: Vec<String>,
}

impl Drop for Told {
    fn drop(&mut self) {
        self.source.abort();
    }
}

impl Told {
    pub(super) fn start(control: &ControlPlane, kubeconfig: PathBuf) -> Result<Self> {
        Self::start_with(control, kubeconfig, false)
    }

    /// The same, told of Pods too if it is said so.
    pub(super) fn start_with(
        control: &ControlPlane,
        kubeconfig: PathBuf,
        pods: bool,
    ) -> Result<Self> {
        let (sender, batches) = mpsc::channel(16);
        let options = Options {
            access: Access {
                kubeconfig: Some(kubeconfig),
                server: None,
            },
            node_name: "source-node".to_owned(),
            external_ips: true,
            pods,
            requests: Requests::default(),
        };
        Ok(Self {
            batches,
            source: control.inside().spawn(watch(options, sender))?,
            objects: BTreeMap::new(),
            problems: Vec::new(),
            count: 0,
            gone: Vec::new(),
        })
    }

    /// As one of the cluster's proxies, with everything known.
    pub(super) fn proxy(control: &ControlPlane, server: SocketAddr) -> Result<Self> {
        let mut told = Self::start(control, control.kubeconfig(PROXY, None, server)?)?;
        told.until(SOON, |told| {
            ensure!(told.count > 0, "no batch; {:?}", told.problems);
            Ok(())
        })?;
        Ok(told)
    }

    fn look(&mut self) -> Result<()> {
        loop {
            match self.batches.try_recv() {
                Ok(batch) => self.take(batch),
                Err(mpsc::error::TryRecvError::Empty) => return Ok(()),
                Err(mpsc::error::TryRecvError::Disconnected) => bail!("the source has ended"),
            }
        }
    }

    pub(super) fn take(&mut self, batch: Batch) {
        self.problems = batch.problems.into_iter().collect();
        if batch.unseen {
            assert_eq!(batch.changes, [], "changes of what was never seen");
            return;
        }
        self.count += 1;
        for change in batch.changes {
            let (key, state) = match change {
                Change::Service(name, service) => {
                    let state = service.map(|service| format!("{:?}", service.ports));
                    (format!("Service {name}"), state)
                }
                Change::Slice(name, slice) => {
                    let state = slice.map(|slice| format!("{:?}", slice.endpoints));
                    (format!("Slice {name}"), state)
                }
                Change::Node(node) => ("Node".to_owned(), node.map(|node| format!("{node:?}"))),
                Change::Pod(name, pod) => {
                    let state = pod.map(|pod| format!("{:?}", pod.addresses));
                    (format!("Pod {name}"), state)
                }
                Change::ServiceNetworks(networks) => {
                    ("Networks".to_owned(), Some(format!("{networks:?}")))
                }
            };
            if let Some(state) = state {
                self.objects.insert(key, state);
            } else {
                self.objects.remove(&key);
                self.gone.push(key);
            }
        }
    }

    pub(super) fn until(
        &mut self,
        limit: Duration,
        check: impl Fn(&Self) -> Result<()>,
    ) -> Result<()> {
        eventually(limit, || {
            self.look()?;
            check(self)
        })
    }

    pub(super) fn until_has(&mut self, key: &str, text: &str) -> Result<()> {
        self.until(SOON, |told| told.has(key, text))
    }

    pub(super) fn has(&self, key: &str, text: &str) -> Result<()> {
        let state = self.objects.get(key);
        ensure!(
            state.is_some_and(|state| state.contains(text)),
            "{key} is {state:?}, not {text}"
        );
        Ok(())
    }

    pub(super) fn until_gone(&mut self, key: &str) -> Result<()> {
        self.until(SOON, |told| {
            ensure!(!told.objects.contains_key(key), "{key} is there");
            Ok(())
        })
    }

    pub(super) fn until_problem(&mut self, limit: Duration, text: &str) -> Result<()> {
        self.until(limit, |told| {
            let found = told.problems.iter().any(|line| line.contains(text));
            ensure!(found, "no problem {text:?} in {:?}", told.problems);
            Ok(())
        })
    }

    pub(super) fn until_well(&mut self, limit: Duration) -> Result<()> {
        self.until(limit, |told| {
            ensure!(told.problems.is_empty(), "{:?}", told.problems);
            Ok(())
        })
    }
}

pub(super) fn service(name: &str, port: u16) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: default}}\n\
         spec: {{ports: [{{port: {port}}}]}}\n---\n"
    )
}

pub(super) fn slice(name: &str, address: &str) -> String {
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: {name}-1, namespace: default, \
         labels: {{kubernetes.io/service-name: {name}}}}}\n\
         addressType: IPv4\nports: [{{name: \"\", port: 8080}}]\n\
         endpoints: [{{addresses: [{address}]}}]\n---\n"
    )
}

pub(super) fn delete(control: &ControlPlane, kind: &str, name: &str) -> Result<()> {
    control.kubectl(&["delete", kind, name], "").map(drop)
}

/// The port a Service has in what was told.
pub(super) fn port(number: u16) -> String {
    format!("port: {number},")
}
