//! A connection that HTTP has taken over TLS, from where the shard has it on.

use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use bytes::Bytes;
use socket2::{Domain, Socket, Type};
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::crypto::ring::{default_provider, sign::any_eddsa_type};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::AlwaysResolvesServerRawPublicKeys;
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, ServerConfig, ServerConnection,
    SignatureScheme,
};

use super::*;
use crate::shard::request::{Request, Upgraded};

/// Believes whatever key it is shown.
#[derive(Debug)]
struct Trusting;

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// Both ends of a session after its handshake. The key is bare (RFC 7250), of a seed that
/// everybody knows (RFC 8410, section 7).
fn session() -> (ClientConnection, ServerConnection) {
    let mut key = b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20".to_vec();
    key.extend([7; 32]);
    let key = any_eddsa_type(&PrivatePkcs8KeyDer::from(key)).unwrap();
    let bare = CertificateDer::from(key.public_key().unwrap().to_vec());
    let certified = Arc::new(CertifiedKey::new(vec![bare], key));
    let server = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(certified)));
    let client = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Trusting))
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
    let mut server = ServerConnection::new(Arc::new(server)).unwrap();
    while client.is_handshaking() || server.is_handshaking() || server.wants_write() {
        says(&mut client, &mut server);
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        let mut bytes = &bytes[..];
        while !bytes.is_empty() {
            client.read_tls(&mut bytes).unwrap();
            client.process_new_packets().unwrap();
        }
    }
    (client, server)
}

/// What a client has to say comes to the server, which decrypts it.
fn says(client: &mut ClientConnection, server: &mut ServerConnection) {
    let mut bytes = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut bytes).unwrap();
    }
    let mut bytes = &bytes[..];
    while !bytes.is_empty() {
        server.read_tls(&mut bytes).unwrap();
        server.process_new_packets().unwrap();
    }
}

#[test]
fn what_was_decrypted_before_the_shard_had_the_connection_is_heard() {
    let mut harness = harness(settings());
    let (mut client, mut server) = session();
    let mut frame = Vec::new();
    ws::push_masked_frame(OpCode::Text, b"echo hello", [1, 2, 3, 4], &mut frame);
    client.writer().write_all(&frame).unwrap();
    says(&mut client, &mut server);
    // Nothing more comes by TCP: no event tells of it.
    let (near, mut far) = Socket::pair(Domain::UNIX, Type::STREAM, None).unwrap();
    near.set_nonblocking(true).unwrap();
    far.set_nonblocking(true).unwrap();
    let upgraded = Upgraded {
        tcp: OwnedFd::from(near).into(),
        tls: Some(Box::new(server)),
        preface: Vec::new(),
        leftover: Bytes::new(),
        deflate: None,
    };
    let guard = harness.slots().take(Ipv4Addr::LOCALHOST.into());
    harness.handle().request(Request::OpenWebSocket {
        protocol: Protocol::Plain,
        base64: false,
        upgraded,
        handshake: Handshake::default(),
        guard: guard.expect("there is no bound"),
    });
    harness.settle();
    assert_eq!(harness.heard(), ["echo hello"]);
    client.read_tls(&mut far).unwrap();
    client.process_new_packets().unwrap();
    let mut answer = [0; 7];
    client.reader().read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"\x81\x05hello");
}
