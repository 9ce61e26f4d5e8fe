//! Certificates from PEM files, read again when told to.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, UNIX_EPOCH};

use heartline::rustls::ServerConfig;
use heartline::rustls::crypto::ring;
use heartline::rustls::pki_types::pem::{self, PemObject};
use heartline::rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use heartline::rustls::server::{ClientHello, ResolvesServerCert};
use heartline::rustls::sign::CertifiedKey;

/// How long before its end a certificate is worth a warning. Who renews by itself does so weeks
/// earlier (at the latest a third of ninety days before), so by then a renewal has failed.
const SOON: Duration = Duration::from_secs(14 * 24 * 3600);

/// After all certificates: 9999-12-31T23:59:59Z (RFC 5280, section 4.1.2.5) is that of those that
/// have no end.
const FAR: UnixTime = UnixTime::since_unix_epoch(Duration::from_secs(253_402_300_799));

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

    /// A sentence for operators if a certificate of the chain has expired at `now`, or will
    /// within two weeks.
    pub(crate) fn warning(&self, now: UnixTime) -> Option<String> {
        warning(&self.cert, &self.current().cert, now)
    }

    /// Whether a certificate of the chain has ended at `now`, and a sentence about that, if it has
    /// or will within two weeks.
    pub(crate) fn ending(&self, now: UnixTime) -> Option<(bool, String)> {
        ending(&self.cert, &self.current().cert, now)
    }

    /// When the first certificate of the chain ends (RFC 3339).
    pub(crate) fn end(&self) -> Option<String> {
        let chain = &self.current().cert;
        let ends = chain.iter().filter_map(|der| end_before(der, FAR));
        ends.min().map(date)
    }

    /// Whether a certificate of the chain is not good yet.
    pub(crate) fn begins_after(&self, now: UnixTime) -> bool {
        let early = |der| {
            matches!(
                validity(der, now),
                Err(webpki::Error::CertNotValidYet { .. })
            )
        };
        self.current().cert.iter().any(early)
    }

    /// The names of hosts that it is for (RFC 5280, section 4.2.1.6).
    pub(crate) fn names(&self) -> Vec<String> {
        let current = self.current();
        let own = current.end_entity_cert().ok();
        let own = own.and_then(|der| webpki::EndEntityCert::try_from(der).ok());
        own.map_or(Vec::new(), |own| {
            own.valid_dns_names().map(Into::into).collect()
        })
    }

    fn current(&self) -> Arc<CertifiedKey> {
        let current = self.current.read();
        current.unwrap_or_else(PoisonError::into_inner).clone()
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
        Some(self.current())
    }
}

/// What to do about a certificate that ends.
pub(crate) const RENEW: &str = "put a renewed one there, and send SIGHUP";

fn warning(path: &str, chain: &[CertificateDer<'_>], now: UnixTime) -> Option<String> {
    ending(path, chain, now).map(|(_, what)| format!("server.tls.cert: {what}; {RENEW}"))
}

/// Whether a chain has ended, and what is to be said of it, if it has or will soon.
fn ending(path: &str, chain: &[CertificateDer<'_>], now: UnixTime) -> Option<(bool, String)> {
    let soon = UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs()) + SOON);
    let end = chain.iter().filter_map(|der| end_before(der, soon)).min()?;
    let is_over = end < now;
    let what = match is_over {
        true => "expired, so that clients refuse it,",
        false => "expires",
    };
    let on = date(end);
    Some((
        is_over,
        format!("{path} holds a certificate that {what} on {on}"),
    ))
}

fn date(at: UnixTime) -> String {
    let at = UNIX_EPOCH + Duration::from_secs(at.as_secs());
    humantime::format_rfc3339_seconds(at).to_string()
}

/// When the certificate's validity ends (RFC 5280, section 4.1.2.5), if that is before `time`.
/// The library that verifies certificates checks validity before anything else and names the
/// end, so it is asked, and no parser of X.509 comes in for one date.
fn end_before(der: &CertificateDer<'_>, time: UnixTime) -> Option<UnixTime> {
    match validity(der, time) {
        Err(webpki::Error::CertExpired { not_after, .. }) => Some(not_after),
        _ => None,
    }
}

fn validity(der: &CertificateDer<'_>, time: UnixTime) -> Result<(), webpki::Error> {
    let certificate = webpki::EndEntityCert::try_from(der)?;
    let server = webpki::KeyUsage::server_auth();
    let verified = certificate.verify_for_usage(&[], &[], &[], time, server, None, None);
    verified.map(|_| ())
}

fn read(cert: &str, key: &str) -> Result<CertifiedKey, String> {
    for (name, given) in [("server.tls.cert", cert), ("server.tls.key", key)] {
        // It is not said again: it may be the key itself.
        if given.contains("-----BEGIN") {
            return Err(format!(
                "{name} is the name of a file, and not what stands in it"
            ));
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A certificate until 2027-02-24T15:04:39Z, and its authority's until 2027-01-05T15:04:11Z.
    const CHAIN: &str = "\
-----BEGIN CERTIFICATE-----
MIIBezCCASGgAwIBAgIUPuBqv+gCnqR/7t1emKNS0wourgQwCgYIKoZIzj0EAwIw
DTELMAkGA1UEAwwCY2EwHhcNMjYxMTI2MTUwNDM5WhcNMjcwMjI0MTUwNDM5WjAU
MRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAARw
13Lg1TbxeccG+930bNBe2jYsl7znVfiVJx5JieuJ6UrbCbZNoGH1OmAOjJo4xic2
yVFbPAQJCS9gxO/M2g1Lo1gwVjAUBgNVHREEDTALgglsb2NhbGhvc3QwHQYDVR0O
BBYEFK1bYNPcgPvCg9+2tgjw54j6QIDmMB8GA1UdIwQYMBaAFB2XPQ1y4RyaTcaF
ab3ur4U4dIj/MAoGCCqGSM49BAMCA0gAMEUCIQDSrNT3y8Jymf+uayFA8AohY9a/
WHNZPxe2cMHLvQHm0wIgKnENsvZMXO23VC+gMC/v7qBcuHIug5cYlue8Kmwm04I=
-----END CERTIFICATE-----
-----BEGIN CERTIFICATE-----
MIIBcDCCARWgAwIBAgIUEltNmCATPCcc5nv8HpISjF4BmyswCgYIKoZIzj0EAwIw
DTELMAkGA1UEAwwCY2EwHhcNMjYxMTI2MTUwNDExWhcNMjcwMTA1MTUwNDExWjAN
MQswCQYDVQQDDAJjYTBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABH00IOs3f6n2
xw2w12vve5AXyHQoA18SI289hyBQE3N5kHgfRHe3O/H1qwQlu8ynrHhWrE5la3pq
JJ/vEuT1e9SjUzBRMB0GA1UdDgQWBBQdlz0NcuEcmk3GhWm97q+FOHSI/zAfBgNV
HSMEGDAWgBQdlz0NcuEcmk3GhWm97q+FOHSI/zAPBgNVHRMBAf8EBTADAQH/MAoG
CCqGSM49BAMCA0kAMEYCIQDBPTfATNkIaj5KKaukhlQKwL9lwagc49or1IvsQSYM
jgIhAKtdCO69WdoekRspaEgTdNo4e8giXVNdwXwP5C5p2aic
-----END CERTIFICATE-----
";

    const AUTHORITY_ENDS: u64 = 1_799_161_451;
    const DAY: u64 = 24 * 3600;

    fn at(now: u64) -> Option<String> {
        let chain = CertificateDer::pem_slice_iter(CHAIN.as_bytes());
        let chain: Vec<_> = chain.collect::<Result<_, _>>().unwrap();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(now));
        warning("c.pem", &chain, now)
    }

    #[test]
    fn a_chain_is_warned_of_two_weeks_before_its_first_certificate_expires() {
        assert_eq!(at(AUTHORITY_ENDS - 14 * DAY), None);
        let soon = at(AUTHORITY_ENDS - 14 * DAY + 1).unwrap();
        assert!(
            soon.contains("c.pem holds a certificate that expires on 2027-01-05T15:04:11Z"),
            "{soon}"
        );
        assert!(!at(AUTHORITY_ENDS).unwrap().contains("expired"));
        let over = at(AUTHORITY_ENDS + 1).unwrap();
        assert!(
            over.contains("expired, so that clients refuse it, on 2027-01-05T15:04:11Z"),
            "{over}"
        );
    }
}
