//! A listening socket of which several shards hear, and one of them for each newcomer.
//!
//! Each shard has a descriptor of its own for the socket in its own poller, and they stand in line
//! there. A newcomer wakes the first of those who sleep (`EPOLLEXCLUSIVE`; otherwise the kernel
//! would wake all, and all but one would find nobody). Who is awake hears of them too, and finds
//! them taken unless all are awake. So a busy shard keeps nobody waiting, and one that has more
//! connections than others goes to the end of the line.

use std::io;

use mio::net::{TcpListener, TcpStream};
use mio::{Registry, Token};

/// One shard's descriptor of a listening socket.
pub(crate) struct Listener(TcpListener);

impl Listener {
    pub(crate) fn new(listener: TcpListener) -> Self {
        Listener(listener)
    }

    pub(crate) fn accept(&self) -> io::Result<(TcpStream, std::net::SocketAddr)> {
        self.0.accept()
    }

    /// Has the poller of `registry` tell of newcomers, those who wait already included.
    ///
    /// # Errors
    /// When the operating system refuses.
    pub(crate) fn join(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        join(&mut self.0, registry, token)
    }

    /// Goes to the end of the line.
    ///
    /// # Errors
    /// When the operating system refuses; the poller tells of nobody then.
    pub(crate) fn fall_behind(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        leave(&mut self.0, registry)?;
        join(&mut self.0, registry, token)
    }

    /// Has the poller tell of nobody any more. Closing the descriptor is not enough, as the
    /// socket has others.
    pub(crate) fn leave(&mut self, registry: &Registry) {
        if let Err(error) = leave(&mut self.0, registry) {
            tracing::warn!(%error, "a listener could not be taken from the poller");
        }
    }
}

#[cfg(target_os = "linux")]
fn join(listener: &mut TcpListener, registry: &Registry, token: Token) -> io::Result<()> {
    use rustix::event::epoll::{EventData, EventFlags, add};

    // As mio would have it, which has no word for the last.
    let (data, flags) = (
        EventData::new_u64(token.0 as u64),
        EventFlags::IN | EventFlags::ET,
    );
    add(registry, &*listener, data, flags | EventFlags::EXCLUSIVE)
        // Sandboxes may not know it.
        .or_else(|_| add(registry, &*listener, data, flags))?;
    Ok(())
}

#[cfg(target_os = "linux")]
fn leave(listener: &mut TcpListener, registry: &Registry) -> io::Result<()> {
    Ok(rustix::event::epoll::delete(registry, &*listener)?)
}

#[cfg(not(target_os = "linux"))]
fn join(listener: &mut TcpListener, registry: &Registry, token: Token) -> io::Result<()> {
    registry.register(listener, token, mio::Interest::READABLE)
}

#[cfg(not(target_os = "linux"))]
fn leave(listener: &mut TcpListener, registry: &Registry) -> io::Result<()> {
    registry.deregister(listener)
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use std::sync::mpsc;
    use std::time::{Duration, Instant};

    const TOKEN: Token = Token(7);
    const PATIENCE: Duration = Duration::from_secs(60);

    /// What a shard's thread does, for newcomers alone: it sleeps, accepts all there are, and
    /// tells how many. Its thread ends with the receiver.
    struct Shard {
        thread: String,
    }

    impl Shard {
        fn new(
            number: usize,
            listener: &std::net::TcpListener,
            told: mpsc::Sender<(usize, usize)>,
            falls_behind: bool,
        ) -> Shard {
            let listener = listener.try_clone().unwrap();
            let mut listener = Listener::new(TcpListener::from_std(listener));
            let mut poll = mio::Poll::new().unwrap();
            listener.join(poll.registry(), TOKEN).unwrap();
            let (tell, thread) = mpsc::channel();
            std::thread::spawn(move || {
                let itself = std::fs::read_link("/proc/thread-self").unwrap();
                tell.send(itself.to_str().unwrap().to_owned()).unwrap();
                let mut events = mio::Events::with_capacity(8);
                loop {
                    poll.poll(&mut events, Some(PATIENCE)).unwrap();
                    assert!(events.iter().all(|event| event.token() == TOKEN));
                    let mut accepted = 0;
                    while listener.accept().is_ok() {
                        accepted += 1;
                    }
                    if falls_behind {
                        listener.fall_behind(poll.registry(), TOKEN).unwrap();
                    }
                    if told.send((number, accepted)).is_err() {
                        return;
                    }
                }
            });
            let thread = thread.recv_timeout(PATIENCE).unwrap();
            Shard { thread }
        }

        fn sleeps(&self) -> bool {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.thread)).unwrap();
            stat.rsplit(')')
                .next()
                .unwrap()
                .trim_start()
                .starts_with('S')
        }
    }

    /// Who is woken for each of some newcomers who come while all sleep, and whether for nothing.
    fn woken(falls_behind: bool) -> Vec<(usize, usize)> {
        let socket = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.set_nonblocking(true).unwrap();
        let address = socket.local_addr().unwrap();
        let (told, hears) = mpsc::channel();
        let shards =
            [0, 1, 2].map(|number| Shard::new(number, &socket, told.clone(), falls_behind));
        let all_sleep = || {
            let end = Instant::now() + PATIENCE;
            while !shards.iter().all(Shard::sleeps) {
                assert!(Instant::now() < end);
                std::thread::yield_now();
            }
        };
        let mut woken = Vec::new();
        for _ in 0..6 {
            all_sleep();
            let _newcomer = std::net::TcpStream::connect(address).unwrap();
            woken.push(hears.recv_timeout(PATIENCE).unwrap());
            all_sleep();
            woken.extend(hears.try_iter());
        }
        woken
    }

    #[test]
    fn a_newcomer_wakes_one_shard() {
        assert_eq!(woken(false), [(0, 1); 6]);
    }

    #[test]
    fn who_goes_to_the_end_of_the_line_is_woken_last() {
        let in_turn = [0, 1, 2, 0, 1, 2].map(|number| (number, 1));
        assert_eq!(woken(true), in_turn);
    }
}
