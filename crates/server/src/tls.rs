//! Certificates from PEM files, read again when told to.

use std::sync::{Arc, PoisonError, RwLock};

use heartline::rustls::ServerConfig;
use heartline::rustls::crypto::ring;
use heartline::rustls::pki_types::pem::{self, PemObject};
use heartline::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use heartline::rustls::server::{ClientHello, ResolvesServerCert};
use heartline::rustls::sign::CertifiedKey;

/// The certificate in use; connections that stand keep theirs.
#[derive(Debug)]
pub(crate) struct Certificate {
    cert: String,
    key: String,
    current: RwLock<Arc<CertifiedKey>>,
}

impl Certificate {
    /// Reads both files.
    ///
    /// # Errors
    /// A sentence that names the file.
    pub(crate) fn load(cert: &str, key: &str) -> Result<Arc<Self>, String> {
        let current = read(cert, key)?;
        Ok(Arc::new(Certificate {
            cert: cert.to_owned(),
            key: key.to_owned(),
            current: RwLock::new(Arc::new(current)),
        }))
    }

    /// Reads the files again; on failure what was in use stays.
    ///
    /// # Errors
    /// A sentence that names the file.
    pub(crate) fn reload(&self) -> Result<(), String> {
        let fresh = Arc::new(read(&self.cert, &self.key)?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }

    /// A server configuration that always uses the current certificate.
    pub(crate) fn server_config(self: &Arc<Self>) -> Result<Arc<ServerConfig>, String> {
        let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        let mut config = builder
            .with_no_client_auth()
            .with_cert_resolver(self.clone());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(
            self.current
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
        )
    }
}

fn read(cert: &str, key: &str) -> Result<CertifiedKey, String> {
    let chain = CertificateDer::pem_file_iter(cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| format!("server.tls.cert: {cert} {}", unreadable(&error)))?;
    if chain.is_empty() {
        return Err(format!("server.tls.cert: {cert} holds no certificate"));
    }
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| match error {
        pem::Error::NoItemsFound if is_encrypted(key) => format!(
            "server.tls.key: {key} holds a private key under a passphrase, which a service cannot \
             be asked for: `openssl pkey -in {key} -out PLAIN` writes it without"
        ),
        pem::Error::NoItemsFound => format!("server.tls.key: {key} holds no private key"),
        error => format!("server.tls.key: {key} {}", unreadable(&error)),
    })?;
    CertifiedKey::from_der(chain, private, &ring::default_provider())
        .map_err(|error| format!("server.tls.key: {key} does not fit the certificate: {error}"))
}

fn unreadable(error: &pem::Error) -> String {
    match error {
        pem::Error::Io(error) => format!("cannot be read: {error}"),
        error => format!("is no PEM: {error}"),
    }
}

/// Whether the file has a key that only a passphrase opens: PKCS#8's label, or the older header.
fn is_encrypted(key: &str) -> bool {
    let text = std::fs::read(key).unwrap_or_default();
    text.windows(b"ENCRYPTED".len())
        .any(|part| part == b"ENCRYPTED")
}
