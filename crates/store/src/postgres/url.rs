//! Where PostgreSQL is, who asks, and how the way to it is encrypted.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{self, CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};
use tokio_postgres_rustls::MakeRustlsConnect;

/// How long a connection may take, where the URL does not say it.
const CONNECT: Duration = Duration::from_secs(5);

/// The same where there are several hosts, which are tried one after the other: a question must
/// come to the last of them within its time.
const CONNECT_ONE: Duration = Duration::from_secs(1);

/// A server that vanished without a word is noticed after about this time.
const SILENCE: Duration = Duration::from_secs(15);

/// What `sslmode` can be here.
const MODES: &str = "sslmode can be disable, prefer, require or verify-full";

/// A database of PostgreSQL, by its URL. It is printed without user and password.
#[derive(Clone, PartialEq, Eq)]
pub struct PostgresUrl {
    config: Config,
    /// With which certificates the server's is verified.
    roots: Option<Roots>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Roots {
    System,
    File(PathBuf),
}

impl PostgresUrl {
    /// Reads `postgres://USER:PASSWORD@HOST:PORT/DATABASE?sslmode=…`.
    ///
    /// # Errors
    /// What is wrong with it, without repeating a part in which a password may be.
    pub fn parse(url: &str) -> Result<PostgresUrl, String> {
        let (place, query) = url.split_once('?').unwrap_or((url, ""));
        let mut rest = Vec::new();
        let (mut mode, mut file) = (None, None);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            if name.is_empty() || !name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_') {
                return Err(
                    "has something after a ? that is not NAME=VALUE: a ? in the \
                            password is written %3F, an @ %40, a / %2F"
                        .into(),
                );
            }
            let decoded = percent_encoding::percent_decode_str(value).decode_utf8_lossy();
            match name {
                "sslmode" => mode = Some(decoded.into_owned()),
                "password" => {
                    return Err("has a password after the ?: it belongs before the @".into());
                }
                "sslrootcert" => file = Some(decoded.into_owned()),
                _ => rest.push(pair),
            }
        }
        let config = Config::from_str(&format!("{place}?{}", rest.join("&")));
        let mut config = config.map_err(|error| {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            format!("cannot be read: {}", cause.unwrap_or_default())
        })?;
        let (ssl, verifies) = match mode.as_deref() {
            Some("disable") => (SslMode::Disable, false),
            None | Some("prefer") => (SslMode::Prefer, false),
            Some("require") => (SslMode::Require, false),
            Some("verify-full") => (SslMode::Require, true),
            Some("verify-ca") => {
                return Err(format!(
                    "{MODES}: verify-full also looks at the server's name"
                ));
            }
            Some(_) => return Err(MODES.into()),
        };
        let roots = match (verifies, file) {
            (true, Some(file)) if file != "system" => Some(Roots::File(file.into())),
            (true, _) => Some(Roots::System),
            (false, None) => None,
            (false, Some(_)) => {
                return Err("has sslrootcert, which belongs to sslmode=verify-full".into());
            }
        };
        config.ssl_mode(ssl);
        complete(&mut config)?;
        Ok(PostgresUrl { config, roots })
    }

    /// Looks whether the certificates can be read by which the server is to be verified.
    ///
    /// # Errors
    /// A sentence that names what cannot be read.
    pub fn check(&self) -> Result<(), String> {
        self.tls().map(drop)
    }

    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    /// How many hosts are tried one after the other, at least 1.
    pub(super) fn hosts(&self) -> u32 {
        u32::try_from(hosts(&self.config)).unwrap_or(u32::MAX)
    }

    /// The way to TLS that it asks for.
    ///
    /// # Errors
    /// A sentence: certificates cannot be read.
    pub(super) fn tls(&self) -> Result<MakeRustlsConnect, String> {
        let provider = Arc::new(ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        let config = match &self.roots {
            Some(roots) => config.with_root_certificates(roots.read()?),
            None => config
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider))),
        };
        Ok(MakeRustlsConnect::new(config.with_no_client_auth()))
    }
}

/// How many hosts there are to try.
fn hosts(config: &Config) -> usize {
    let (names, addresses) = (config.get_hosts(), config.get_hostaddrs());
    names.len().max(addresses.len())
}

/// What it says nothing of.
fn complete(config: &mut Config) -> Result<(), String> {
    if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
        return Err("must name a host, like postgres://USER:PASSWORD@HOST/DATABASE".into());
    }
    if config.get_application_name().is_none() {
        config.application_name("heartline");
    }
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(match hosts(config) {
            0 | 1 => CONNECT,
            _ => CONNECT_ONE,
        });
    }
    if config.get_tcp_user_timeout().is_none() {
        config.tcp_user_timeout(SILENCE);
    }
    config.keepalives_idle(SILENCE / 3);
    config.keepalives_interval(SILENCE / 3);
    config.keepalives_retries(2);
    // Of several hosts the one that takes writes: after a failover it is another.
    config.target_session_attrs(TargetSessionAttrs::ReadWrite);
    Ok(())
}

impl Roots {
    fn read(&self) -> Result<RootCertStore, String> {
        let mut roots = RootCertStore::empty();
        match self {
            Roots::System => {
                let found = rustls_native_certs::load_native_certs();
                roots.add_parsable_certificates(found.certs);
            }
            Roots::File(path) => {
                let read = CertificateDer::pem_file_iter(path)
                    .and_then(Iterator::collect::<Result<Vec<_>, _>>);
                let read = read.map_err(|error| {
                    format!("sslrootcert {} cannot be read: {error}", path.display())
                })?;
                roots.add_parsable_certificates(read);
            }
        }
        match roots.is_empty() {
            false => Ok(roots),
            true => Err(format!(
                "sslmode=verify-full finds no certificate to verify with in {}",
                match self {
                    Roots::System =>
                        "the system's store: name a file, sslrootcert=/path/ca.pem".to_owned(),
                    Roots::File(path) => path.display().to_string(),
                }
            )),
        }
    }
}

impl std::fmt::Display for PostgresUrl {
    /// Hosts and database alone.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("postgres://")?;
        let ports = self.config.get_ports();
        for (index, host) in self.config.get_hosts().iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            let port = ports.get(index).or(ports.first()).unwrap_or(&5432);
            match host {
                Host::Tcp(name) => write!(f, "{comma}{name}:{port}")?,
                #[cfg(unix)]
                Host::Unix(path) => write!(f, "{comma}{}", path.display())?,
            }
        }
        match self.config.get_dbname() {
            Some(name) => write!(f, "/{name}"),
            None => Ok(()),
        }
    }
}

impl std::fmt::Debug for PostgresUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PostgresUrl({self})")
    }
}

/// Takes the server at its word, as `sslmode=require` says: nobody who listens understands, but
/// who stands in between can be anybody.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        crypto::verify_tls12_signature(message, cert, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        crypto::verify_tls13_signature(message, cert, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

    use super::*;

    #[test]
    fn a_url_is_shown_without_user_and_password() {
        let url = PostgresUrl::parse("postgres://ann:hunter2@db.example/app?sslmode=require");
        let url = url.unwrap();
        assert_eq!(url.to_string(), "postgres://db.example:5432/app");
        assert!(!format!("{url:?}").contains("hunter2"));
        let two = PostgresUrl::parse("postgres://a:1,b:2/app").unwrap();
        assert_eq!(two.to_string(), "postgres://a:1,b:2/app");
    }

    #[test]
    fn certificates_that_cannot_be_read_are_found_without_a_server() {
        let of = |more: &str| {
            let url = format!("postgres://ann:hunter2@db/app?{more}");
            PostgresUrl::parse(&url).unwrap().check()
        };
        assert_eq!(of("sslmode=require"), Ok(()));
        let wrong = of("sslmode=verify-full&sslrootcert=/nowhere.pem").unwrap_err();
        assert!(wrong.contains("/nowhere.pem cannot be read"), "{wrong}");
        assert!(!wrong.contains("hunter2"), "{wrong}");
    }

    #[test]
    fn what_is_wrong_with_a_url_is_said_without_its_password() {
        for (url, says) in [
            (
                "postgres://ann:hunter2@db/app?sslmode=verify-ca",
                "verify-full also",
            ),
            ("postgres://ann:hunter2@db/app?sslmode=on", "sslmode can be"),
            (
                "postgres://ann:hunter2@db/app?sslrootcert=/ca",
                "belongs to",
            ),
            ("postgres://ann:a?hunter2@db/app", "written %3F"),
            ("postgres://ann:hunter2@db/app?sslcert=a", "sslcert"),
            ("postgres://ann:hunter2@db:x/app", "port"),
            ("postgres:///app", "must name a host"),
        ] {
            let wrong = PostgresUrl::parse(url).unwrap_err();
            assert!(wrong.contains(says), "{url}: {wrong}");
            assert!(!wrong.contains("hunter2"), "{wrong}");
        }
    }

    #[test]
    fn certificates_that_cannot_be_read_are_named() {
        let url = "postgres://db/app?sslmode=verify-full&sslrootcert=/nowhere/ca.pem";
        let wrong = PostgresUrl::parse(url).unwrap().tls().err().unwrap();
        assert!(wrong.contains("/nowhere/ca.pem cannot be read"), "{wrong}");
    }
}
