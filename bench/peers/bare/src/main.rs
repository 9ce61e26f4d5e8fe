//! An epoll loop on one thread that does nothing but frames: the limit of what a
//! server can cost on this kernel. It trusts its clients, as no server may.
//!
//! Frames: `e…` comes back, `s` subscribes and comes back, `p…` goes to every
//! subscriber. What one turn has for a connection is one write.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use base64::Engine as _;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use sha1::{Digest, Sha1};

const LISTENER: Token = Token(usize::MAX);
/// Pings are spread over their interval in slices of this.
const SLICE: Duration = Duration::from_millis(100);

/// 32 bytes while idle.
struct Conn {
    stream: TcpStream,
    open: bool,
    dirty: bool,
    /// What did not fit, either way.
    more: Option<Box<More>>,
}

#[derive(Default)]
struct More {
    input: Vec<u8>,
    output: Vec<u8>,
}

struct Server {
    poll: Poll,
    conns: Vec<Option<Conn>>,
    free: Vec<usize>,
    subscribers: Vec<usize>,
    /// Frames of this turn for every subscriber.
    published: Vec<u8>,
    dirty: Vec<usize>,
    buffer: Vec<u8>,
}

fn main() -> io::Result<()> {
    let port: u16 = std::env::args()
        .nth(1)
        .and_then(|port| port.parse().ok())
        .expect("which port?");
    let interval = std::env::var("PING_INTERVAL_MS")
        .ok()
        .and_then(|value| value.parse().ok())
        .map_or(Duration::from_secs(25), Duration::from_millis);
    let mut listener = listen(port)?;
    let poll = Poll::new()?;
    poll.registry()
        .register(&mut listener, LISTENER, Interest::READABLE)?;
    println!("listening on {port}");
    let mut server = Server {
        poll,
        conns: Vec::new(),
        free: Vec::new(),
        subscribers: Vec::new(),
        published: Vec::new(),
        dirty: Vec::new(),
        buffer: vec![0; 64 * 1024],
    };
    let slices = (interval.as_millis() / SLICE.as_millis()).max(1) as usize;
    let (mut slice, mut due) = (0, Instant::now() + SLICE);
    let mut events = Events::with_capacity(1024);
    loop {
        let left = due.saturating_duration_since(Instant::now());
        server.poll.poll(&mut events, Some(left))?;
        for event in &events {
            match event.token() {
                LISTENER => server.accept(&listener),
                Token(slot) => {
                    if event.is_writable() {
                        server.write(slot, &[]);
                    }
                    if event.is_readable() {
                        server.read(slot);
                    }
                }
            }
        }
        server.flush();
        if Instant::now() >= due {
            due += SLICE;
            slice = (slice + 1) % slices;
            for slot in (slice..server.conns.len()).step_by(slices) {
                if server.conns[slot].as_ref().is_some_and(|conn| conn.open) {
                    server.write(slot, b"\x89\x00");
                }
            }
        }
    }
}

fn listen(port: u16) -> io::Result<TcpListener> {
    use socket2::{Domain, Socket, Type};
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::from(([0, 0, 0, 0], port)).into())?;
    socket.listen(4096)?;
    Ok(TcpListener::from_std(socket.into()))
}

impl Server {
    fn accept(&mut self, listener: &TcpListener) {
        while let Ok((mut stream, _)) = listener.accept() {
            let _ = stream.set_nodelay(true);
            let slot = self.free.pop().unwrap_or_else(|| {
                self.conns.push(None);
                self.conns.len() - 1
            });
            let both = Interest::READABLE | Interest::WRITABLE;
            if self
                .poll
                .registry()
                .register(&mut stream, Token(slot), both)
                .is_ok()
            {
                self.conns[slot] = Some(Conn {
                    stream,
                    open: false,
                    dirty: false,
                    more: None,
                });
            }
        }
    }

    fn read(&mut self, slot: usize) {
        let mut buffer = std::mem::take(&mut self.buffer);
        while let Some(conn) = &mut self.conns[slot] {
            match conn.stream.read(&mut buffer) {
                Ok(0) => self.drop(slot),
                Ok(n) => {
                    self.input(slot, &mut buffer[..n]);
                    if n < buffer.len() {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => self.drop(slot),
            }
        }
        self.buffer = buffer;
    }

    fn drop(&mut self, slot: usize) {
        self.conns[slot] = None;
        self.free.push(slot);
        self.subscribers.retain(|member| *member != slot);
    }

    fn input(&mut self, slot: usize, bytes: &mut [u8]) {
        let Some(conn) = &mut self.conns[slot] else {
            return;
        };
        let before = conn.more.as_mut().map(|more| std::mem::take(&mut more.input));
        match before.filter(|input| !input.is_empty()) {
            None => {
                let used = self.take(slot, bytes);
                self.keep(slot, &bytes[used..]);
            }
            Some(mut input) => {
                input.extend_from_slice(bytes);
                let used = self.take(slot, &mut input);
                self.keep(slot, &input[used..]);
            }
        }
    }

    fn keep(&mut self, slot: usize, rest: &[u8]) {
        if let (false, Some(conn)) = (rest.is_empty(), &mut self.conns[slot]) {
            conn.more.get_or_insert_default().input.extend_from_slice(rest);
        }
    }

    /// Handles what is complete in `bytes`; how much that was.
    fn take(&mut self, slot: usize, bytes: &mut [u8]) -> usize {
        let mut at = 0;
        if self.conns[slot].as_ref().is_some_and(|conn| !conn.open) {
            let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
                return 0;
            };
            at = end + 4;
            let answer = handshake(&bytes[..at]);
            self.write(slot, &answer);
            if let Some(conn) = &mut self.conns[slot] {
                conn.open = true;
            }
        }
        while let Some((header, length)) = header(&bytes[at..]) {
            let Some(frame) = bytes.get_mut(at..at + header + length) else {
                break;
            };
            at += header + length;
            let opcode = frame[0] & 0x0f;
            let (head, payload) = frame.split_at_mut(header);
            let mask = [head[header - 4], head[header - 3], head[header - 2], head[header - 1]];
            unmask(payload, mask);
            match (opcode, payload.first()) {
                (1, Some(b'e')) => self.answer(slot, payload),
                (1, Some(b's')) => {
                    self.subscribers.push(slot);
                    self.answer(slot, payload);
                }
                (1, Some(b'p')) => push_frame(payload, &mut self.published),
                (8, _) => {
                    self.write(slot, b"\x88\x02\x03\xe8");
                    self.drop(slot);
                    return at;
                }
                _ => {}
            }
        }
        at
    }

    fn answer(&mut self, slot: usize, payload: &[u8]) {
        if let Some(conn) = &mut self.conns[slot] {
            push_frame(payload, &mut conn.more.get_or_insert_default().output);
            if !std::mem::replace(&mut conn.dirty, true) {
                self.dirty.push(slot);
            }
        }
    }

    /// What this turn has to say leaves.
    fn flush(&mut self) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for slot in dirty.drain(..) {
            if let Some(conn) = &mut self.conns[slot] {
                conn.dirty = false;
            }
            self.write(slot, &[]);
        }
        self.dirty = dirty;
        if !self.published.is_empty() {
            let published = std::mem::take(&mut self.published);
            let subscribers = std::mem::take(&mut self.subscribers);
            for &slot in &subscribers {
                self.write(slot, &published);
            }
            self.subscribers = subscribers;
            self.published = published;
            self.published.clear();
        }
    }

    /// Writes what waits for `slot` and then `bytes`.
    fn write(&mut self, slot: usize, bytes: &[u8]) {
        let Some(Some(conn)) = self.conns.get_mut(slot) else {
            return;
        };
        let mut waiting = match &mut conn.more {
            Some(more) => std::mem::take(&mut more.output),
            None => Vec::new(),
        };
        let whole: &[u8] = if waiting.is_empty() {
            bytes
        } else {
            waiting.extend_from_slice(bytes);
            &waiting
        };
        let written = match whole {
            [] => 0,
            whole => conn.stream.write(whole).unwrap_or(0),
        };
        let rest = whole[written..].to_vec();
        if !rest.is_empty() {
            conn.more.get_or_insert_default().output = rest;
        } else if let Some(more) = &mut conn.more {
            if more.input.is_empty() {
                conn.more = None;
            }
        }
    }
}

/// Length of a masked frame's header, and of its payload.
fn header(bytes: &[u8]) -> Option<(usize, usize)> {
    match bytes.get(1)? & 0x7f {
        126 => Some((8, usize::from(u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?])))),
        127 => {
            let length = bytes.get(2..10)?.try_into().ok()?;
            Some((14, u64::from_be_bytes(length) as usize))
        }
        short => Some((6, usize::from(short))),
    }
}

fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    let word = u32::from_ne_bytes(mask);
    let (words, rest) = payload.as_chunks_mut::<4>();
    for chunk in words {
        *chunk = (u32::from_ne_bytes(*chunk) ^ word).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask) {
        *byte ^= mask;
    }
}

fn push_frame(payload: &[u8], out: &mut Vec<u8>) {
    match payload.len() {
        short @ ..=125 => out.extend_from_slice(&[0x81, short as u8]),
        length => {
            out.extend_from_slice(&[0x81, 126]);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
    }
    out.extend_from_slice(payload);
}

fn handshake(request: &[u8]) -> Vec<u8> {
    let request = String::from_utf8_lossy(request);
    let key = request
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-key"))
        .map_or("", |(_, key)| key.trim());
    let mut hash = Sha1::new();
    hash.update(key);
    hash.update("258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let accept = base64::engine::general_purpose::STANDARD.encode(hash.finalize());
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    )
    .into_bytes()
}
