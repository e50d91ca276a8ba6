//! Ways into the API server: who one is, and where it is.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use k8s_openapi::api::{authentication::v1::TokenRequest, core::v1::ServiceAccount};
use kube::{
    Api, Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};

use super::{
    network::ADDRESS,
    pki::{self, Pki},
};

/// The administrator of these clusters, and the group that may do everything.
const ADMIN: (&str, &str) = ("admin", "system:masters");

/// The certificates, and kubeconfigs made with them.
#[derive(Debug)]
pub(super) struct Access {
    dir: PathBuf,
    pub(super) pki: Pki,
}

impl Access {
    pub(super) fn new(dir: PathBuf, pki: Pki) -> Result<Self> {
        fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let access = Self { dir, pki };
        access.kubeconfig(ADMIN.0, Some(ADMIN.1), ADDRESS)?;
        Ok(access)
    }

    pub(super) fn admin_kubeconfig(&self) -> PathBuf {
        self.file(ADMIN.0, ADDRESS)
    }

    /// A client for the administrator.
    pub(super) async fn admin(&self) -> Result<Client> {
        Ok(Client::try_from(self.admin_config().await?)?)
    }

    /// The same, of another server.
    pub(super) async fn admin_at(&self, server: SocketAddr) -> Result<Client> {
        let file = self.kubeconfig(ADMIN.0, Some(ADMIN.1), server)?;
        Ok(Client::try_from(config(&file).await?)?)
    }

    /// One for connections on which the server shows the certificate it was given last.
    pub(super) async fn newest(&self) -> Result<Client> {
        let mut config = self.admin_config().await?;
        config.tls_server_name = Some(self.pki.served_name());
        Ok(Client::try_from(config)?)
    }

    async fn admin_config(&self) -> Result<Config> {
        config(&self.admin_kubeconfig()).await
    }

    /// See [`ControlPlane::kubeconfig`](super::ControlPlane::kubeconfig).
    pub(super) fn kubeconfig(
        &self,
        user: &str,
        group: Option<&str>,
        server: SocketAddr,
    ) -> Result<PathBuf> {
        let (certificate, key) = self.pki.issue_client(user, group)?;
        let user_entry = json!({ "client-certificate": certificate, "client-key": key });
        let file = self.file(user, server);
        write_kubeconfig(&file, server, &self.pki.server_authorities(), &user_entry)?;
        Ok(file)
    }

    fn file(&self, user: &str, server: SocketAddr) -> PathBuf {
        let user = user.replace([':', '/'], "-");
        self.dir
            .join(format!("{user}.{}.kubeconfig", server.port()))
    }
}

async fn config(kubeconfig: &Path) -> Result<Config> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let options = KubeConfigOptions::default();
    Ok(Config::from_custom_kubeconfig(kubeconfig, &options).await?)
}

/// The files of a service account: `token`, `ca.crt` and `namespace`, as in a Pod.
#[derive(Debug)]
pub struct Account {
    namespace: String,
    name: String,
    dir: PathBuf,
}

impl Account {
    pub(super) fn new(access: &Access, namespace: &str, name: &str) -> Result<Self> {
        let dir = access.dir.join(format!("{namespace}.{name}"));
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let authorities = fs::read_to_string(access.pki.server_authorities())
            .context("cannot read the server's authorities")?;
        pki::write(&dir.join("ca.crt"), &authorities)?;
        pki::write(&dir.join("namespace"), namespace)?;
        Ok(Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            dir,
        })
    }

    /// Where the files are.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A kubeconfig that refers to the files.
    pub fn kubeconfig(&self, server: SocketAddr) -> Result<PathBuf> {
        let file = self.dir.join(format!("{}.kubeconfig", server.port()));
        let user = json!({ "tokenFile": self.dir.join("token") });
        write_kubeconfig(&file, server, &self.dir.join("ca.crt"), &user)?;
        Ok(file)
    }

    pub(super) async fn renew(&self, client: Client) -> Result<()> {
        let accounts: Api<ServiceAccount> = Api::namespaced(client, &self.namespace);
        let request: TokenRequest = serde_json::from_value(json!({ "spec": { "audiences": [] } }))?;
        let answer = accounts
            .create_token_request(&self.name, &kube::api::PostParams::default(), &request)
            .await
            .with_context(|| format!("no token for {}/{}", self.namespace, self.name))?;
        let token = answer.status.and_then(|status| status.token);
        let token = token.context("the API server gave no token")?;
        pki::write(&self.dir.join("token"), &token)
    }
}

fn write_kubeconfig(
    file: &Path,
    server: SocketAddr,
    authorities: &Path,
    user: &Value,
) -> Result<()> {
    // JSON is YAML.
    let kubeconfig = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{
            "name": "test",
            "cluster": {
                "server": format!("https://{server}"),
                "certificate-authority": authorities,
            },
        }],
        "users": [{ "name": "user", "user": user }],
        "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "user" } }],
        "current-context": "test",
    });
    pki::write(file, &kubeconfig.to_string())
}
