//! One client connection: its sockets and what waits to be sent on them.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};

use heartline_wire::ws::{self, Decoder, OpCode};
use mio::net::TcpStream;
use rustls::ClientConnection;

use crate::plan::{Plan, Protocol};
use crate::tls::Tls;

/// Masks need be unpredictable where a browser sends what a page says; here
/// any will do that is not zero.
const MASK: [u8; 4] = [0x5a, 0xc3, 0x17, 0x9e];
/// Source ports that are used: below those that Linux gives out by itself.
const PORTS: std::ops::Range<u16> = 10_000..32_000;
/// Source addresses that are used, from 127.1.0.1 on.
const ADDRESSES: usize = 1_000;
/// Sources that may be found in use before that is an error.
const TRIES: usize = 64;

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// TCP, then HTTP or the WebSocket handshake, then the protocol's own.
    Connecting,
    Joining,
    Ready,
    /// It has said that it leaves.
    Leaving,
}

pub(crate) struct Conn {
    /// Its number among all connections of the run.
    pub(crate) index: usize,
    pub(crate) stage: Stage,
    /// Is in its room, and does not read.
    pub(crate) deaf: bool,
    /// In the list of those with something to send.
    pub(crate) dirty: bool,
    /// When it was begun, microseconds.
    pub(crate) begun: u64,
    pub(crate) link: Link,
}

pub(crate) enum Link {
    WebSocket(WebSocket),
    Polling(Box<Polling>),
}

pub(crate) struct WebSocket {
    pub(crate) channel: Channel,
    pub(crate) decoder: Decoder,
    /// The response to the handshake, as far as it has come.
    pub(crate) head: Option<Vec<u8>>,
}

/// A session over HTTP: one socket for its GETs, one for its POSTs.
pub(crate) struct Polling {
    pub(crate) get: Channel,
    pub(crate) post: Channel,
    pub(crate) get_input: Vec<u8>,
    pub(crate) post_input: Vec<u8>,
    pub(crate) sid: String,
    /// Packets for the next POST.
    pub(crate) packets: String,
    pub(crate) posting: bool,
}

/// A socket with what it could not take yet.
pub(crate) struct Channel {
    pub(crate) stream: TcpStream,
    tls: Option<Box<ClientConnection>>,
    pub(crate) out: Vec<u8>,
}

impl Channel {
    /// Begins to connect. Connections to this machine come from many of its
    /// addresses (127.0.0.0/8), or ports would run out; which, is counted in
    /// `sources`: a search by the kernel becomes slow among connections that
    /// have just ended.
    pub(crate) fn connect(
        to: SocketAddr,
        sources: &AtomicUsize,
        tls: Option<&Tls>,
    ) -> io::Result<Self> {
        use socket2::{Domain, Protocol, Socket, Type};
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        if to.is_ipv4() && to.ip().is_loopback() {
            socket.set_reuse_address(true)?;
            let mut tries = 0;
            loop {
                let source = source(sources.fetch_add(1, Ordering::Relaxed));
                match socket.bind(&source.into()) {
                    Ok(()) => break,
                    Err(error) if tries == TRIES => return Err(error),
                    Err(_) => tries += 1,
                }
            }
        }
        match socket.connect(&to.into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(IN_PROGRESS) => {}
            Err(error) => return Err(error),
        }
        let tls = tls.map(Tls::begin).transpose().map_err(io::Error::other)?;
        Ok(Channel {
            stream: TcpStream::from_std(socket.into()),
            tls: tls.map(Box::new),
            out: Vec::new(),
        })
    }

    /// Writes what waits, as far as the socket takes it.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        let flushed = match self.tls {
            None => self.flush_plain(),
            Some(_) => self.flush_tls(),
        };
        match flushed {
            // Not connected yet: the writable event comes when it is.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected
                ) =>
            {
                Ok(())
            }
            flushed => flushed,
        }
    }

    fn flush_tls(&mut self) -> io::Result<()> {
        let Some(tls) = &mut self.tls else {
            return Ok(());
        };
        loop {
            while tls.wants_write() {
                tls.write_tls(&mut self.stream)?;
            }
            if self.out.is_empty() || tls.is_handshaking() {
                return Ok(());
            }
            let taken = tls.writer().write(&self.out)?;
            self.out.drain(..taken);
        }
    }

    /// Whether the handshake, or what waited for its end, is to be written.
    pub(crate) fn wants_flush(&self) -> bool {
        let tls = self.tls.as_ref();
        tls.is_some_and(|tls| tls.wants_write() || (!self.out.is_empty() && !tls.is_handshaking()))
    }

    fn flush_plain(&mut self) -> io::Result<()> {
        while !self.out.is_empty() {
            match self.stream.write(&self.out) {
                Ok(n) if n == self.out.len() => {
                    // Idle connections keep no buffer.
                    if self.out.capacity() > 64 * 1024 {
                        self.out = Vec::new();
                    }
                    self.out.clear();
                }
                Ok(n) => {
                    self.out.drain(..n);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads what is there; `None` if nothing is. The flag says whether there
    /// may be more.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<(usize, bool)>> {
        loop {
            let read = match &mut self.tls {
                None => self.stream.read(buffer),
                Some(tls) => read_tls(tls, &mut self.stream, buffer),
            };
            match read {
                Ok(n) if self.tls.is_some() => return Ok(Some((n, true))),
                Ok(n) => return Ok(Some((n, n == buffer.len() || n == 0))),
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected => return Ok(None),
                    io::ErrorKind::Interrupted => {}
                    _ => return Err(error),
                },
            }
        }
    }
}

fn read_tls(
    tls: &mut ClientConnection,
    stream: &mut TcpStream,
    buffer: &mut [u8],
) -> io::Result<usize> {
    loop {
        match tls.reader().read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
            read => return read,
        }
        if tls.read_tls(stream)? == 0 {
            return Ok(0);
        }
        tls.process_new_packets().map_err(io::Error::other)?;
    }
}

/// `EINPROGRESS` of Linux.
const IN_PROGRESS: i32 = 115;

/// The source that has this number.
fn source(number: usize) -> SocketAddr {
    let ports = PORTS.len();
    let first = u32::from(Ipv4Addr::new(127, 1, 0, 1));
    let address = Ipv4Addr::from(first + (number / ports % ADDRESSES) as u32);
    SocketAddr::from((address, PORTS.start + (number % ports) as u16))
}

impl Conn {
    /// Begins a connection; `token` goes where its protocol wants it.
    pub(crate) fn begin(
        plan: &Plan,
        index: usize,
        sources: &AtomicUsize,
        tls: Option<&Tls>,
        token: Option<&str>,
        now: u64,
    ) -> io::Result<Self> {
        let link = match plan.protocol {
            Protocol::Polling => Link::Polling(Box::new(Polling::begin(plan, sources, tls)?)),
            _ => Link::WebSocket(WebSocket::begin(plan, sources, tls, token)?),
        };
        Ok(Conn {
            index,
            stage: Stage::Connecting,
            deaf: false,
            dirty: false,
            begun: now,
            link,
        })
    }

    /// Puts a text message into what leaves next.
    pub(crate) fn say(&mut self, text: &str) {
        match &mut self.link {
            Link::WebSocket(websocket) => {
                let out = &mut websocket.channel.out;
                ws::push_masked_frame(OpCode::Text, text.as_bytes(), MASK, out);
            }
            Link::Polling(polling) => {
                if !polling.packets.is_empty() {
                    polling.packets.push('\x1e');
                }
                polling.packets.push_str(text);
            }
        }
    }

    /// Sends what waits.
    pub(crate) fn flush(&mut self, plan: &Plan) -> io::Result<()> {
        match &mut self.link {
            Link::WebSocket(websocket) => websocket.channel.flush(),
            Link::Polling(polling) => polling.flush(plan),
        }
    }
}

impl WebSocket {
    fn begin(
        plan: &Plan,
        sources: &AtomicUsize,
        tls: Option<&Tls>,
        token: Option<&str>,
    ) -> io::Result<Self> {
        let mut channel = Channel::connect(plan.target.address, sources, tls)?;
        let path = plan.target.path(plan.protocol);
        let query = match plan.protocol {
            Protocol::SocketIo => "?EIO=4&transport=websocket",
            _ => "",
        };
        let authorization = match (plan.protocol, token) {
            (Protocol::Live, Some(token)) => format!("Authorization: Bearer {token}\r\n"),
            _ => String::new(),
        };
        // The key is the one of RFC 6455 §1.3: nothing hangs on it here.
        write!(
            channel.out,
            "GET {path}{query} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\n\
             Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{authorization}\r\n",
            plan.target.authority
        )?;
        Ok(WebSocket {
            channel,
            decoder: Decoder::default(),
            head: Some(Vec::new()),
        })
    }

    /// Answers a ping frame.
    pub(crate) fn pong(&mut self, payload: &[u8]) {
        ws::push_masked_frame(OpCode::Pong, payload, MASK, &mut self.channel.out);
    }

    /// Begins the closing handshake.
    pub(crate) fn close(&mut self) {
        let code = 1000_u16.to_be_bytes();
        ws::push_masked_frame(OpCode::Close, &code, MASK, &mut self.channel.out);
    }
}

impl Polling {
    fn begin(plan: &Plan, sources: &AtomicUsize, tls: Option<&Tls>) -> io::Result<Self> {
        let mut polling = Polling {
            get: Channel::connect(plan.target.address, sources, tls)?,
            post: Channel::connect(plan.target.address, sources, tls)?,
            get_input: Vec::new(),
            post_input: Vec::new(),
            sid: String::new(),
            packets: String::new(),
            posting: false,
        };
        polling.ask(plan)?;
        Ok(polling)
    }

    /// Sends the next GET: the first of them opens the session.
    pub(crate) fn ask(&mut self, plan: &Plan) -> io::Result<()> {
        let path = plan.target.path(plan.protocol);
        let sid = if self.sid.is_empty() { "" } else { "&sid=" };
        write!(
            self.get.out,
            "GET {path}?EIO=4&transport=polling{sid}{} HTTP/1.1\r\nHost: {}\r\n\r\n",
            self.sid, plan.target.authority
        )
    }

    fn flush(&mut self, plan: &Plan) -> io::Result<()> {
        if !self.packets.is_empty() && !self.posting {
            self.posting = true;
            let path = plan.target.path(plan.protocol);
            write!(
                self.post.out,
                "POST {path}?EIO=4&transport=polling&sid={} HTTP/1.1\r\nHost: {}\r\n\
                 Content-Type: text/plain;charset=UTF-8\r\nContent-Length: {}\r\n\r\n{}",
                self.sid,
                plan.target.authority,
                self.packets.len(),
                self.packets
            )?;
            self.packets.clear();
        }
        self.post.flush()?;
        self.get.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_many_and_local() {
        let ports = PORTS.len();
        assert_eq!(source(0), "127.1.0.1:10000".parse().unwrap());
        assert_eq!(source(ports - 1), "127.1.0.1:31999".parse().unwrap());
        assert_eq!(source(ports), "127.1.0.2:10000".parse().unwrap());
        assert_eq!(source(ports * ADDRESSES), source(0));
        assert!(source(usize::MAX).ip().is_loopback());
    }
}
