//! The byte stream of a connection: TCP, or TLS over TCP.

use std::io::{self, IoSlice, Read, Write};

use heartline_wire::ws::Decoder;
use mio::net::TcpStream;
use tokio_rustls::rustls::ServerConnection;

pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<Tls>),
}

pub(crate) struct Tls {
    tcp: TcpStream,
    session: ServerConnection,
}

impl Stream {
    /// Takes a connected, non-blocking socket and, for TLS, its session after
    /// the handshake.
    pub(crate) fn new(tcp: std::net::TcpStream, session: Option<ServerConnection>) -> Self {
        let tcp = TcpStream::from_std(tcp);
        match session {
            None => Stream::Plain(tcp),
            Some(session) => Stream::Tls(Box::new(Tls { tcp, session })),
        }
    }

    /// The socket, for registration with the poller.
    pub(crate) fn socket(&mut self) -> &mut TcpStream {
        match self {
            Stream::Plain(tcp) => tcp,
            Stream::Tls(tls) => &mut tls.tcp,
        }
    }

    /// Reads what is there. `Ok(0)` is the end of the stream. The flag says
    /// whether more may be waiting (a short read of a plain socket says not).
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<(usize, bool)> {
        match self {
            Stream::Plain(tcp) => {
                let n = tcp.read(buffer)?;
                Ok((n, n == buffer.len()))
            }
            Stream::Tls(tls) => tls.read(buffer).map(|n| (n, true)),
        }
    }

    /// Writes what the socket takes without waiting.
    pub(crate) fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Stream::Plain(tcp) if slices.len() == 1 => tcp.write(&slices[0]),
            Stream::Plain(tcp) => tcp.write_vectored(slices),
            Stream::Tls(tls) => tls.write(slices),
        }
    }

    /// Pushes out what TLS still holds. `Ok(false)`: the socket would block.
    pub(crate) fn flush(&mut self) -> io::Result<bool> {
        match self {
            Stream::Plain(_) => Ok(true),
            Stream::Tls(tls) => tls.flush(),
        }
    }
}

impl Tls {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.session.reader().read(buffer) {
                Ok(n) => return Ok(n),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // A peer that closes TCP without close_notify has left all the same.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                Err(error) => return Err(error),
            }
            if self.session.read_tls(&mut self.tcp)? == 0 {
                return Ok(0);
            }
            self.session
                .process_new_packets()
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        }
    }

    fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        // Nothing new is encrypted while old records wait: the bound on what
        // waits for a slow peer is the connection's queue.
        if !self.flush()? {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let n = self.session.writer().write_vectored(slices)?;
        self.flush()?;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<bool> {
        while self.session.wants_write() {
            match self.session.write_tls(&mut self.tcp) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

impl Drop for Tls {
    /// Says that this is the end, so that the peer need not take it for a cut (RFC 8446
    /// §6.1). A peer that does not read hears nothing of it.
    fn drop(&mut self) {
        self.session.send_close_notify();
        let _ = self.flush();
    }
}

pub(crate) struct WebSocket {
    pub(crate) stream: Stream,
    pub(crate) decoder: Decoder,
    /// permessage-deflate was negotiated: messages may come compressed.
    pub(crate) deflate: bool,
    /// Bytes that were read before the connection was paused.
    pub(crate) stash: Option<Box<Stash>>,
}

/// What was read and is not decoded yet.
pub(crate) struct Stash {
    pub(crate) bytes: Vec<u8>,
    /// How many of them are done with.
    pub(crate) at: usize,
}

impl Stash {
    /// `None` if there is nothing to keep.
    pub(crate) fn of(bytes: &[u8]) -> Option<Box<Self>> {
        let bytes = bytes.to_vec();
        (!bytes.is_empty()).then(|| Box::new(Stash { bytes, at: 0 }))
    }
}

impl WebSocket {
    pub(crate) fn new(stream: Stream, deflate: bool) -> Self {
        WebSocket {
            stream,
            decoder: Decoder::default(),
            deflate,
            stash: None,
        }
    }
}
