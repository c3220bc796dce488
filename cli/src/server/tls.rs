//! TLS: the options, and what follows from them. Certificates and the names in them are always
//! verified.

use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use rustls_native_certs::load_native_certs;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};

use crate::exit::Failure;
use crate::server::HEADING;

/// The options for addresses with TLS.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// With rediss://, trust only the certificate authorities in this file (PEM) [default: the
    /// system's, or those of SSL_CERT_FILE and SSL_CERT_DIR]
    #[arg(long, value_name = "FILE", global = true, help_heading = HEADING)]
    cacert: Option<PathBuf>,
    /// With rediss://, authenticate with this certificate (PEM)
    #[arg(
        long,
        value_name = "FILE",
        global = true,
        help_heading = HEADING,
        requires = "tls_key"
    )]
    cert: Option<PathBuf>,
    /// Private key of --cert (PEM)
    #[arg(
        long,
        value_name = "FILE",
        global = true,
        help_heading = HEADING,
        requires = "cert"
    )]
    tls_key: Option<PathBuf>,
}

impl Options {
    /// The first of these options that is given, if any.
    pub(crate) fn given(&self) -> Option<&'static str> {
        match self {
            Self { cacert: Some(_), .. } => Some("--cacert"),
            Self { cert: Some(_), .. } => Some("--cert"),
            _ => None,
        }
    }

    /// Loads the certificates.
    ///
    /// # Errors
    /// If a file is missing or invalid, or no certificate authority is trusted.
    pub(crate) fn config(&self) -> Result<Arc<ClientConfig>> {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(self.trusted()?);
        let config = match (&self.cert, &self.tls_key) {
            (Some(cert), Some(key)) => {
                let chain = certificates("--cert", cert)?;
                let key_pair = PrivateKeyDer::from_pem_file(key);
                let key_pair =
                    key_pair.map_err(|error| invalid("--tls-key", key, error))?;
                builder
                    .with_client_auth_cert(chain, key_pair)
                    .map_err(|error| invalid("--tls-key", key, error))?
            }
            _ => builder.with_no_client_auth(),
        };
        Ok(Arc::new(config))
    }

    fn trusted(&self) -> Result<RootCertStore> {
        let Some(path) = &self.cacert else { return system_store() };
        let mut store = RootCertStore::empty();
        for certificate in certificates("--cacert", path)? {
            store.add(certificate).map_err(|error| invalid("--cacert", path, error))?;
        }
        Ok(store)
    }
}

/// The system's trust store. Some stores contain certificates that cannot be read: those are
/// skipped unless none is left.
fn system_store() -> Result<RootCertStore> {
    let loaded = load_native_certs();
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(loaded.certs);
    if store.is_empty() {
        let why = match loaded.errors.first() {
            Some(error) => format!(": {error}"),
            None => String::new(),
        };
        let message = format!(
            "found no trusted certificate authorities{why}; use --cacert or SSL_CERT_FILE"
        );
        return Err(Failure::usage(message).into());
    }
    Ok(store)
}

fn certificates(option: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let all = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    let all: Vec<_> = all.map_err(|error| invalid(option, path, error))?;
    if all.is_empty() {
        return Err(invalid(option, path, "it contains no certificate").into());
    }
    Ok(all)
}

fn invalid(option: &str, path: &Path, why: impl Display) -> Failure {
    Failure::usage(format!("invalid {option} {}: {why}", path.display()))
}

/// Explains an error of the TLS handshake.
pub(crate) fn explain(error: io::Error) -> io::Error {
    let Some(cause) = error.get_ref().and_then(|cause| cause.downcast_ref()) else {
        return error;
    };
    let why = match cause {
        rustls::Error::InvalidMessage(_) => {
            "no TLS at this address: use redis:// or another port".to_owned()
        }
        rustls::Error::InvalidCertificate(_) => format!("untrusted server: {cause}"),
        rustls::Error::AlertReceived(_) => format!("the server rejected TLS: {cause}"),
        _ => return error,
    };
    io::Error::new(error.kind(), why)
}
