//! What a process on this machine uses, read from `/proc`.

use std::cell::Cell;
use std::fs;

/// Resident memory and CPU time of some processes together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Bytes.
    pub(crate) resident: u64,
    /// Microseconds on a processor, of all threads.
    pub(crate) cpu: u64,
}

/// Processes whose use is read again and again, until one of them is gone.
pub(crate) struct Watched<'a> {
    pids: &'a [u32],
    is_gone: Cell<bool>,
}

impl<'a> Watched<'a> {
    pub(crate) fn new(pids: &'a [u32]) -> Self {
        let is_gone = Cell::new(false);
        Watched { pids, is_gone }
    }

    /// What they use now. Once one of them is gone that is nothing, and a difference means nothing
    /// either.
    pub(crate) fn usage(&self) -> Usage {
        let used = usage(self.pids);
        self.is_gone.set(self.is_gone.get() || used.is_none());
        used.unwrap_or_default()
    }

    /// Whether there are some, and all were there whenever they were looked at.
    pub(crate) fn is_known(&self) -> bool {
        !self.pids.is_empty() && !self.is_gone.get()
    }
}

/// What `pids` use; `None` if one of them is not there.
pub(crate) fn usage(pids: &[u32]) -> Option<Usage> {
    let mut sum = Usage::default();
    for pid in pids {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        sum.resident += resident(&status)?;
        sum.cpu += scheduled(*pid).or_else(|| {
            fs::read_to_string(format!("/proc/{pid}/stat"))
                .ok()
                .and_then(|stat| ticks(&stat))
        })?;
    }
    Some(sum)
}

fn resident(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

/// Nanoseconds per thread, finer than the ticks of `stat`, where the kernel
/// keeps them (`CONFIG_SCHED_INFO`).
fn scheduled(pid: u32) -> Option<u64> {
    let mut nanos = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task")).ok()? {
        let text = fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        nanos += text.split(' ').next()?.parse::<u64>().ok()?;
    }
    (nanos > 0).then_some(nanos / 1000)
}

/// `utime` and `stime`, which Linux tells in hundredths of a second (proc(5)).
fn ticks(stat: &str) -> Option<u64> {
    // The name may hold anything; the last parenthesis ends it.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let user: u64 = fields.get(11)?.parse().ok()?;
    let system: u64 = fields.get(12)?.parse().ok()?;
    Some((user + system) * 10_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_proc_says() {
        assert_eq!(resident("Name:\tx\nVmRSS:\t    12 kB\n"), Some(12 * 1024));
        let stat = "7 (a) b) S 1 7 7 0 -1 0 0 0 0 0 30 20 0 0 20 0 1 0 5 0 0";
        assert_eq!(ticks(stat), Some(500_000));
        let own = usage(&[std::process::id()]).unwrap();
        assert!(own.resident > 0);
        assert_eq!(usage(&[u32::MAX]), None);
    }

    #[test]
    fn of_a_process_that_is_gone_nothing_is_known() {
        let mut child = std::process::Command::new("sleep")
            .arg("600")
            .spawn()
            .unwrap();
        let pids = [std::process::id(), child.id()];
        let watched = Watched::new(&pids);
        assert!(watched.usage().resident > 0 && watched.is_known());
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(watched.usage(), Usage::default());
        assert!(!watched.is_known());
        assert!(!Watched::new(&[]).is_known());
    }
}
