//! A certificate authority, and certificates that it signed, in files.

use std::fs;
use std::path::PathBuf;

use gpulock_testkit::Builder;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

/// A certificate authority with its folder.
pub(crate) struct Authority {
    folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        // Unlike that of other authorities, and of the certificates that it issues.
        let folder = tempfile::tempdir().expect("a folder");
        let name = folder.path().to_str().expect("a path");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        fs::write(folder.path().join("ca.crt"), certificate.pem()).expect("a file");
        Self { folder, issuer: Issuer::new(params, key) }
    }

    /// The path of its own certificate.
    pub(crate) fn certificate(&self) -> String {
        self.path("ca.crt")
    }

    /// Creates a certificate for a host, and returns the paths of it and of its key.
    pub(crate) fn issue(&self, host: &str) -> (String, String) {
        let params = CertificateParams::new([host.to_owned()]).expect("a host");
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let files = (format!("{host}.crt"), format!("{host}.key"));
        let write = |name: &str, text: String| {
            fs::write(self.folder.path().join(name), text).expect("a file");
            self.path(name)
        };
        (write(&files.0, certificate.pem()), write(&files.1, key.serialize_pem()))
    }

    /// Makes a server listen with TLS on this port as well. `clients` is its tls-auth-clients.
    pub(crate) fn secure(
        &self,
        server: Builder,
        host: &str,
        port: u16,
        clients: &str,
    ) -> Builder {
        let (certificate, key) = self.issue(host);
        server
            .arg("tls-port", port)
            .arg("tls-ca-cert-file", self.certificate())
            .arg("tls-cert-file", certificate)
            .arg("tls-key-file", key)
            .arg("tls-auth-clients", clients)
    }

    fn path(&self, name: &str) -> String {
        let path: PathBuf = self.folder.path().join(name);
        path.to_str().expect("a path").to_owned()
    }
}
