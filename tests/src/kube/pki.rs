//! The certificates and keys of a cluster.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

/// Who signs the API server's next certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signer {
    /// The authority that signed the one before, as when a certificate is renewed.
    Same,
    /// A new authority, which clients have to learn of, as when a cluster's authority is rotated.
    New,
}

/// Two authorities, one for the server and one for clients, and the files made with them.
#[derive(Debug)]
pub(super) struct Pki {
    dir: PathBuf,
    server: Authority,
    clients: Authority,
    /// How many certificates the server has had.
    served: u32,
}

#[derive(Debug)]
struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Pki {
    /// Makes the authorities, the server's first certificate and the key for service accounts.
    pub(super) fn new(dir: PathBuf, names: &[&str]) -> Result<Self> {
        fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let mut pki = Self {
            dir,
            server: Authority::new("server")?,
            clients: Authority::new("clients")?,
            served: 0,
        };
        write(&pki.server_authorities(), &pki.server.certificate)?;
        write(&pki.client_authorities(), &pki.clients.certificate)?;
        let accounts = KeyPair::generate()?;
        write(&pki.account_key(), &accounts.serialize_pem())?;
        write(&pki.account_public_key(), &accounts.public_key_pem())?;
        pki.issue_server(names)?;
        Ok(pki)
    }

    /// Gives the server another certificate, signed anew.
    pub(super) fn renew(&mut self, signer: Signer, names: &[&str]) -> Result<()> {
        if signer == Signer::New {
            let new = Authority::new(&format!("server-{}", self.served))?;
            let old = std::mem::replace(&mut self.server, new);
            // Clients learn of the new authority first, and trust both until all have moved.
            let both = old.certificate + &self.server.certificate;
            write(&self.server_authorities(), &both)?;
        }
        self.issue_server(names)
    }

    fn issue_server(&mut self, names: &[&str]) -> Result<()> {
        self.served += 1;
        let unique = self.served_name();
        let names: Vec<String> = names
            .iter()
            .copied()
            .chain([&*unique])
            .map(str::to_owned)
            .collect();
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name = name("kube-apiserver", None);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let (certificate, key) = self.server.sign(&params)?;
        write(&self.server_key(), &key)?;
        write(&self.server_certificate(), &certificate)
    }

    /// A name that the server's certificate of the day has, and none had before: whoever connects by
    /// this name meets that certificate or fails.
    pub(super) fn served_name(&self) -> String {
        format!("certificate-{}.kubernetes.default.svc", self.served)
    }

    /// Makes a client's certificate; its file and that of its key.
    pub(super) fn issue_client(
        &self,
        user: &str,
        group: Option<&str>,
    ) -> Result<(PathBuf, PathBuf)> {
        let mut params = CertificateParams::default();
        params.distinguished_name = name(user, group);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let (certificate, key) = self.clients.sign(&params)?;
        let stem = user.replace([':', '/'], "-");
        let files = (
            self.dir.join(format!("{stem}.crt")),
            self.dir.join(format!("{stem}.key")),
        );
        write(&files.0, &certificate)?;
        write(&files.1, &key)?;
        Ok(files)
    }

    /// The authorities a client has to trust.
    pub(super) fn server_authorities(&self) -> PathBuf {
        self.dir.join("server-ca.crt")
    }

    pub(super) fn client_authorities(&self) -> PathBuf {
        self.dir.join("client-ca.crt")
    }

    pub(super) fn server_certificate(&self) -> PathBuf {
        self.dir.join("server.crt")
    }

    pub(super) fn server_key(&self) -> PathBuf {
        self.dir.join("server.key")
    }

    /// What service account tokens are signed with.
    pub(super) fn account_key(&self) -> PathBuf {
        self.dir.join("accounts.key")
    }

    pub(super) fn account_public_key(&self) -> PathBuf {
        self.dir.join("accounts.pub")
    }
}

impl Authority {
    fn new(common_name: &str) -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = name(common_name, None);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Ok(Self {
            certificate: params.self_signed(&key)?.pem(),
            issuer: Issuer::new(params, key),
        })
    }

    /// A certificate and its key.
    fn sign(&self, params: &CertificateParams) -> Result<(String, String)> {
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok((certificate.pem(), key.serialize_pem()))
    }
}

/// Kubernetes reads a user from the common name and a group from the organization.
fn name(common_name: &str, organization: Option<&str>) -> rcgen::DistinguishedName {
    let mut name = rcgen::DistinguishedName::new();
    if let Some(organization) = organization {
        name.push(DnType::OrganizationName, organization);
    }
    name.push(DnType::CommonName, common_name);
    name
}

/// Puts a file in its place whole: others may be reading it.
pub(super) fn write(path: &Path, text: &str) -> Result<()> {
    let fresh = path.with_extension("fresh");
    fs::write(&fresh, text)
        .and_then(|()| fs::rename(&fresh, path))
        .with_context(|| format!("cannot write {}", path.display()))
}
