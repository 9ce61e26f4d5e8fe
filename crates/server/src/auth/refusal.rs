//! Why a token is refused, in words for whoever runs the node, and how often the log
//! says so.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use heartline::auth::AuthError;

/// What the client is told, and what the operator is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) error: AuthError,
    /// A clause about "it", the token. It names claims and settings, and holds nothing
    /// that the token says.
    pub(crate) why: Cow<'static, str>,
}

impl Refused {
    /// A token that is no good.
    pub(crate) fn invalid(why: impl Into<Cow<'static, str>>) -> Self {
        let why = why.into();
        Refused {
            error: AuthError::Invalid,
            why,
        }
    }
}

/// Most lines about refusals in one [`WINDOW`]: a client that comes back for ever with the
/// same bad token must not fill the log.
const LINES: u32 = 5;
const WINDOW: Duration = Duration::from_secs(1);

/// Says in the log why tokens are refused, some of them by their number only.
#[derive(Clone)]
pub(crate) struct RefusalLog {
    quota: Arc<Mutex<Quota>>,
    begin: Instant,
}

impl RefusalLog {
    pub(crate) fn new() -> Self {
        RefusalLog {
            quota: Arc::default(),
            begin: Instant::now(),
        }
    }

    /// Logs a refusal, or counts it. The count is logged a window later, by a task of the
    /// runtime that this is called in.
    pub(crate) fn note(&self, refused: &Refused, remote: IpAddr, namespace: &str) {
        match self.quota().take(self.begin.elapsed()) {
            Turn::Say => tracing::info!(
                code = refused.error.code().as_str(),
                %remote,
                namespace,
                "a token was refused: {}",
                refused.why
            ),
            Turn::Count { first: true } => {
                let log = self.clone();
                let later = async move {
                    tokio::time::sleep(WINDOW).await;
                    let refusals = log.quota().rest();
                    tracing::info!(refusals, "more tokens were refused");
                };
                if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                    runtime.spawn(later);
                }
            }
            Turn::Count { first: false } => {}
        }
    }

    fn quota(&self) -> MutexGuard<'_, Quota> {
        self.quota.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Turn {
    Say,
    /// `first`: no other waits to be told by its number.
    Count {
        first: bool,
    },
}

/// How much may still be said.
#[derive(Default)]
struct Quota {
    /// When the window began.
    since: Duration,
    lines: u32,
    untold: u64,
}

impl Quota {
    fn take(&mut self, now: Duration) -> Turn {
        if now.saturating_sub(self.since) >= WINDOW {
            (self.since, self.lines) = (now, 0);
        }
        if self.lines < LINES {
            self.lines += 1;
            return Turn::Say;
        }
        self.untold += 1;
        Turn::Count {
            first: self.untold == 1,
        }
    }

    fn rest(&mut self) -> u64 {
        std::mem::take(&mut self.untold)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_comes_back_for_ever_does_not_fill_the_log() {
        let mut quota = Quota::default();
        let ms = Duration::from_millis;
        for at in 0..5 {
            assert_eq!(quota.take(ms(at)), Turn::Say);
        }
        assert_eq!(quota.take(ms(5)), Turn::Count { first: true });
        for at in 6..1000 {
            assert_eq!(quota.take(ms(at)), Turn::Count { first: false });
        }
        assert_eq!(quota.rest(), 995);
        assert_eq!(quota.take(ms(1000)), Turn::Say);
        assert_eq!(quota.rest(), 0);
    }
}
