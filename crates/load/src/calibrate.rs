//! What this machine asks for the steps that every server is made of: the figures of a run
//! are worth as much as these, which differ between machines, and between busy hours of one.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;

/// Sockets that are written to one after the other, so that none is only in the cache.
const SOCKETS: usize = 64;
/// Longest time of one step that is told from longer ones, nanoseconds.
const LONGEST: u64 = 1_000_000_000;

/// Medians over many rounds of 64 steps, microseconds: what others had of the processor
/// meanwhile counts in few of them.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Calibration {
    /// `calibrate`, as other results name their scenario.
    pub scenario: &'static str,
    /// Bytes of one write.
    pub size: usize,
    /// The smallest system call there is.
    pub system_call_us: f64,
    /// A write to a TCP connection of this machine, its delivery to the peer included.
    pub write_us: f64,
    /// A read of what was written.
    pub read_us: f64,
}

/// Writes `size` bytes to sockets and reads them again, for `duration`.
///
/// # Errors
/// When there are no sockets, or a connection to this machine breaks.
pub fn calibrate(size: usize, duration: Duration) -> io::Result<Calibration> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut pairs = Vec::with_capacity(SOCKETS);
    for _ in 0..SOCKETS {
        let near = TcpStream::connect(listener.local_addr()?)?;
        near.set_nodelay(true)?;
        pairs.push((near, listener.accept()?.0));
    }
    let message = vec![b'x'; size];
    let mut buffer = vec![0; size];
    let [mut calls, mut writes, mut reads] = [(); 3].map(|()| histogram());
    let began = Instant::now();
    while began.elapsed() < duration {
        round(&mut calls, 0..SOCKETS, |_| {
            std::hint::black_box(std::process::id());
            Ok(())
        })?;
        round(&mut writes, &mut pairs, |(near, _)| {
            near.write_all(&message)
        })?;
        round(&mut reads, &mut pairs, |(_, far)| {
            far.read_exact(&mut buffer)
        })?;
    }
    let micros = |histogram: &Histogram<u64>| histogram.value_at_quantile(0.5) as f64 / 1e3;
    Ok(Calibration {
        scenario: "calibrate",
        size,
        system_call_us: micros(&calls),
        write_us: micros(&writes),
        read_us: micros(&reads),
    })
}

fn histogram() -> Histogram<u64> {
    match Histogram::new_with_bounds(1, LONGEST, 3) {
        Ok(histogram) => histogram,
        Err(error) => unreachable!("these bounds are good: {error}"),
    }
}

/// Does `step` with each, and records what one took.
fn round<T>(
    taken: &mut Histogram<u64>,
    each: impl IntoIterator<Item = T>,
    mut step: impl FnMut(T) -> io::Result<()>,
) -> io::Result<()> {
    let began = Instant::now();
    for one in each {
        step(one)?;
    }
    let nanos = began.elapsed().as_nanos() as u64;
    taken.saturating_record((nanos / SOCKETS as u64).max(1));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_takes_longer_than_the_smallest_system_call() {
        let found = calibrate(128, Duration::from_millis(20)).unwrap();
        assert!(found.system_call_us > 0.0);
        assert!(found.write_us > found.system_call_us, "{found:?}");
        assert!(found.read_us > 0.0);
    }
}
