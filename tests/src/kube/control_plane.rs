//! The parts of a control plane, started, ended and changed.

use std::{fmt, future::Future, net::SocketAddr, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context, Result};
use http::Request;
use k8s_openapi::api::core::v1;
use kube::{Api, Client};
use serde_json::Value;

use super::{
    Inside,
    access::{Access, Account},
    apply,
    assets::program,
    detour::Detour,
    etcd,
    network::{ADDRESS, HOST, Network},
    pki::{Pki, Signer},
    replica::{self, Replica},
};
use crate::{
    command,
    netns::Netns,
    process::{Process, Usage},
    site::Site,
    topology::SERVICE_RANGES,
};

/// What the server's certificates are good for.
const NAMES: [&str; 6] = [
    "172.30.0.1",
    "127.0.0.1",
    "10.96.0.1",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
];
/// The controllers that make slices, and those the API relies on. Others would fight with Nodes and
/// Pods made by hand: there is no kubelet to say that they live.
const CONTROLLERS: [&str; 6] = [
    "endpointslice-controller",
    "endpointslice-mirroring-controller",
    "garbage-collector-controller",
    "namespace-controller",
    "root-ca-certificate-publisher-controller",
    "serviceaccount-controller",
];
/// How long a part may take until it is ready, on a busy machine.
pub(super) const START: Duration = Duration::from_secs(60);
/// How long a single question may take meanwhile.
const PROBE: Duration = Duration::from_secs(2);

/// What a control plane is to have beyond `etcd` and the API server.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The controllers: slices for Services and Pods, garbage collection, service accounts.
    pub controllers: bool,
    /// Controllers to run beside those, by name.
    pub more_controllers: Vec<String>,
    /// More flags of the API server; they win over ours.
    pub api_server_flags: Vec<String>,
}

/// See the [module](super). Fields are in the order they are to be dropped in.
pub struct ControlPlane {
    client: Client,
    controllers: Option<Process>,
    api_server: Process,
    etcd: Process,
    access: Access,
    inside: Inside,
    options: Options,
    network: Network,
    /// Last, so that it is dropped last.
    site: Site,
}

/// A part of a control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// `etcd`.
    Etcd,
    /// `kube-apiserver`.
    ApiServer,
    /// `kube-controller-manager`.
    Controllers,
}

/// The documents of a manifest.
pub fn documents(manifest: &str) -> Result<Vec<Value>> {
    serde_saphyr::from_multiple(manifest).context("the manifest is no YAML")
}

impl fmt::Debug for ControlPlane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ControlPlane")
            .field("site", &self.site)
            .finish_non_exhaustive()
    }
}

impl ControlPlane {
    /// Starts the parts and waits until they are ready.
    pub fn start(site: Site, options: Options) -> Result<Self> {
        let network = Network::new(&site)?;
        let (netns, dir) = (&network.netns, site.dir());
        let inside = Inside::new(netns)?;
        let pki = Pki::new(dir.join("pki"), &NAMES)?;
        let access = Access::new(dir.join("access"), pki)?;
        let etcd = Process::start("etcd", netns, &dir, &mut etcd::command(&dir)?)?;
        let mut command = api_server_command(&access.pki, &options, ADDRESS)?;
        let api_server = Process::start("kube-apiserver", netns, &dir, &mut command)?;
        let client = inside.run(access.admin())??;
        let mut control = Self {
            client,
            controllers: None,
            api_server,
            etcd,
            access,
            inside,
            options,
            network,
            site,
        };
        control.wait_ready().or_else(|error| {
            control.etcd.check_alive()?;
            Err(error)
        })?;
        if control.options.controllers {
            control.start_controllers()?;
        }
        Ok(control)
    }

    /// Its namespace, where the API server is at [`ADDRESS`] too.
    pub fn netns(&self) -> &Netns {
        &self.network.netns
    }

    /// A directory for files that are to go with it.
    pub fn dir(&self) -> PathBuf {
        self.site.dir()
    }

    /// Gives a namespace an interface by which it reaches [`ADDRESS`].
    pub fn join(&mut self, netns: &Netns) -> Result<()> {
        self.network.join(netns)
    }

    /// A worse way to the API server, for all who have joined.
    pub fn detour(&self) -> Result<Detour> {
        Detour::start(&self.inside, HOST, ADDRESS)
    }

    /// Does work with an administrator's client.
    pub fn run<T, E, W, F>(&self, work: W) -> Result<T>
    where
        T: Send,
        E: Into<anyhow::Error> + Send,
        W: FnOnce(Client) -> F + Send,
        F: Future<Output = Result<T, E>> + Send,
    {
        let client = self.client();
        self.inside
            .run(async { work(client).await.map_err(Into::into) })?
    }

    /// An administrator's client, for what runs [`inside`](Self::inside): elsewhere it reaches nothing.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// What else is to happen inside, beside the caller.
    pub fn inside(&self) -> &Inside {
        &self.inside
    }

    /// Applies objects with their status, as [`kubectl apply --server-side`] does without.
    ///
    /// [`kubectl apply --server-side`]: https://kubernetes.io/docs/reference/using-api/server-side-apply/
    pub fn apply(&self, objects: &[Value]) -> Result<()> {
        self.run(async |client| apply::all(&client, objects).await)
    }

    /// Applies the documents of a manifest with their status.
    pub fn apply_yaml(&self, manifest: &str) -> Result<()> {
        self.apply(&documents(manifest)?)
    }

    /// Deletes objects at once, without grace; there being none is fine.
    pub fn delete(&self, objects: &[Value]) -> Result<()> {
        self.run(async |client| apply::none(&client, objects).await)
    }

    /// Puts objects into `etcd` past the API server, as when a backup is restored, by their places
    /// there (`/registry/…`). They have to be as the API server would have completed them.
    pub fn restore(&self, objects: &[(String, Value)]) -> Result<()> {
        self.inside.run(etcd::put(objects))?
    }

    /// Runs `kubectl` as an administrator, with `input` on its standard input; what it prints.
    pub fn kubectl(&self, args: &[&str], input: &str) -> Result<String> {
        let mut command = program("kubectl")?;
        command
            .arg("--kubeconfig")
            .arg(self.access.admin_kubeconfig());
        command.arg("--cache-dir").arg(self.dir().join("kubectl"));
        command.args(args);
        let output = self.netns().run(|| command::feed(&mut command, input))??;
        Ok(String::from_utf8(output.stdout)?)
    }

    /// A kubeconfig for a user of a group who reaches the API server at `server`: [`ADDRESS`], or
    /// that of a [`Detour`].
    pub fn kubeconfig(
        &self,
        user: &str,
        group: Option<&str>,
        server: SocketAddr,
    ) -> Result<PathBuf> {
        self.access.kubeconfig(user, group, server)
    }

    /// The files of a service account, as a kubelet puts them into a Pod.
    pub fn account(&self, namespace: &str, name: &str) -> Result<Account> {
        let account = Account::new(&self.access, namespace, name)?;
        self.rotate_token(&account)?;
        Ok(account)
    }

    /// Puts a new token in the place of the account's one.
    pub fn rotate_token(&self, account: &Account) -> Result<()> {
        self.run(async |client| account.renew(client).await)
    }

    /// Ends the API server as a crash would.
    pub fn kill_api_server(&mut self) {
        self.api_server.kill();
    }

    /// Starts the API server again, with the objects there were, and waits until it is ready.
    pub fn start_api_server(&mut self) -> Result<()> {
        self.api_server.kill();
        let mut command = api_server_command(&self.access.pki, &self.options, ADDRESS)?;
        let (netns, dir) = (&self.network.netns, self.site.dir());
        self.api_server = Process::start("kube-apiserver", netns, &dir, &mut command)?;
        self.wait_ready()
    }

    /// Another API server, which stays when this one is killed.
    pub fn replica(&self) -> Result<Replica> {
        let (access, address) = (&self.access, replica::ADDRESS);
        let mut command = api_server_command(&access.pki, &self.options, address)?;
        // The endpoints of the Service of API servers are the other one's to tell.
        command.arg("--endpoint-reconciler-type=none");
        let (netns, dir) = (&self.network.netns, self.site.dir());
        let process = Process::start("replica", netns, &dir, &mut command)?;
        let client = self.inside.run(access.admin_at(address))??;
        Replica::new(process, client, &self.inside)
    }

    /// Has `etcd` forget the history of all objects; the resource version before which it has. An API
    /// server that runs remembers some of it until it is started again.
    pub fn compact_etcd(&self) -> Result<u64> {
        self.inside.run(etcd::compact())?
    }

    /// Has the API server show another certificate to whoever connects from here on.
    pub fn replace_certificate(&mut self, signer: Signer) -> Result<()> {
        self.access.pki.renew(signer, &NAMES)?;
        self.wait_ready()?;
        self.client = self.inside.run(self.access.admin())??;
        // The controllers read their authorities when they start.
        if signer == Signer::New && self.controllers.take().is_some() {
            self.start_controllers()?;
        }
        Ok(())
    }

    /// What a part has taken of the machine.
    pub fn usage(&self, part: Part) -> Result<Usage> {
        self.process(part)?.usage()
    }

    /// The end of what each part has said.
    pub fn logs(&self) -> String {
        [Part::Etcd, Part::ApiServer, Part::Controllers]
            .into_iter()
            .filter_map(|part| {
                Some(format!(
                    "--- {part:?}\n{}\n",
                    self.process(part).ok()?.tail()
                ))
            })
            .collect()
    }

    fn process(&self, part: Part) -> Result<&Process> {
        match part {
            Part::Etcd => Ok(&self.etcd),
            Part::ApiServer => Ok(&self.api_server),
            Part::Controllers => self
                .controllers
                .as_ref()
                .context("there are no controllers"),
        }
    }

    /// Waits until the API server is ready and shows the certificate it was given last.
    fn wait_ready(&mut self) -> Result<()> {
        let (inside, access) = (&self.inside, &self.access);
        self.api_server
            .until(START, |_| ready(inside, async || access.newest().await))
    }

    fn start_controllers(&mut self) -> Result<()> {
        let mut command = self.controllers_command()?;
        let (netns, dir) = (&self.network.netns, self.site.dir());
        let mut controllers = Process::start("kube-controller-manager", netns, &dir, &mut command)?;
        controllers.until(START, |_| {
            self.run(async |client| {
                let accounts: Api<v1::ServiceAccount> = Api::namespaced(client, "default");
                accounts.get("default").await
            })
        })?;
        self.controllers = Some(controllers);
        Ok(())
    }

    fn controllers_command(&self) -> Result<Command> {
        let pki = &self.access.pki;
        let mut controllers = CONTROLLERS.map(str::to_owned).to_vec();
        controllers.extend_from_slice(&self.options.more_controllers);
        let mut command = program("kube-controller-manager")?;
        command
            .arg("--kubeconfig")
            .arg(self.access.admin_kubeconfig());
        command.arg(format!("--controllers={}", controllers.join(",")));
        command.args(["--leader-elect=false", "--bind-address=127.0.0.1"]);
        // What is measured is how soon others follow, not how fast this client may ask.
        command.args(["--kube-api-qps=1000", "--kube-api-burst=1000"]);
        command
            .arg("--service-account-private-key-file")
            .arg(pki.account_key());
        command.arg("--root-ca-file").arg(pki.server_authorities());
        Ok(command)
    }
}

/// Asks once, as this client, for all that has to be there before objects can be made.
pub(super) fn ready<F>(inside: &Inside, client: impl FnOnce() -> F + Send) -> Result<()>
where
    F: Future<Output = Result<Client>> + Send,
{
    inside.run(async {
        let probe = tokio::time::timeout(PROBE, async { probe(client().await?).await });
        probe.await.context("there is no answer")?
    })?
}

async fn probe(client: Client) -> Result<()> {
    client
        .request_text(Request::get("/readyz").body(Vec::new())?)
        .await?;
    Api::<v1::Namespace>::all(client.clone())
        .get("default")
        .await?;
    Api::<v1::Service>::namespaced(client, "default")
        .get("kubernetes")
        .await?;
    Ok(())
}

fn api_server_command(pki: &Pki, options: &Options, address: SocketAddr) -> Result<Command> {
    let mut command = program("kube-apiserver")?;
    command.arg(etcd::api_server_flag());
    command.arg(format!("--secure-port={}", address.port()));
    command.arg(format!("--advertise-address={HOST}"));
    command.arg(format!("--service-cluster-ip-range={SERVICE_RANGES}"));
    command.arg("--authorization-mode=Node,RBAC");
    command.arg("--allow-privileged");
    // Pods made by hand need no tokens, and no controller has to be there to make accounts.
    command.arg("--disable-admission-plugins=ServiceAccount");
    // History is forgotten when a test says so.
    command.arg("--etcd-compaction-interval=0");
    command.arg("--service-account-issuer=https://kubernetes.default.svc");
    for (flag, file) in [
        ("--client-ca-file", pki.client_authorities()),
        ("--tls-cert-file", pki.server_certificate()),
        ("--tls-private-key-file", pki.server_key()),
        ("--service-account-signing-key-file", pki.account_key()),
        ("--service-account-key-file", pki.account_public_key()),
    ] {
        command.arg(flag).arg(file);
    }
    command.args(&options.api_server_flags);
    Ok(command)
}
