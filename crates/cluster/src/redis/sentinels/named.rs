//! Which of the masters that Sentinels name is believed: the rules, with time as an argument.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Sentinels that are listened to besides those that the URL names: as many as anybody has.
pub(super) const MAX_LEARNED: usize = 8;

/// How long things take with Sentinels.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// For how long a Sentinel's word stands for it that is not said again: some answers may be
    /// late.
    pub(super) fresh: Duration,
    /// How long Sentinels must agree that a failover never was. They tell each other of one every
    /// two seconds, and put servers right that disagree after eight.
    pub(super) clear: Duration,
    /// Who was away for so long may be gone for good: longer than a restart takes.
    pub(super) gone: Duration,
    /// How often a Sentinel is asked which others there are. Before the first time, those of the
    /// URL have said who they are.
    pub(super) learn: Duration,
}

pub(super) const PACE: Pace = Pace {
    fresh: Duration::from_secs(5),
    clear: Duration::from_secs(10),
    gone: Duration::from_secs(30),
    learn: Duration::from_secs(10),
};

/// The master that Sentinels have named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Master {
    /// Counts failovers: of two that are named, the one with more is right.
    pub(super) epoch: u64,
    pub(super) host: String,
    pub(super) port: u16,
}

/// What a Sentinel says that seems to know less than others.
#[derive(Debug)]
pub(super) struct Word {
    master: Master,
    /// It has said so since then, and the last time then.
    since: Instant,
    at: Instant,
}

/// A Sentinel that another one has told of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) id: String,
    pub(super) host: String,
    pub(super) port: u16,
}

impl Told {
    /// Reads what a Sentinel says of another one; `None`: it does not answer that one either.
    pub(super) fn read(said: &HashMap<String, String>) -> Option<Told> {
        let is_down = said.get("flags")?.split(',').any(|flag| flag == "s_down");
        (!is_down).then_some(Told {
            id: said.get("runid")?.clone(),
            host: said.get("ip")?.clone(),
            port: said.get("port")?.parse().ok()?,
        })
    }
}

/// Masters that were found by other means before one was named.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) enum Found {
    #[default]
    Nobody,
    One(String, u16),
    Several,
}

/// What was named.
#[derive(Debug)]
pub(super) struct Named {
    pub(super) pace: Pace,
    pub(super) master: Option<Master>,
    pub(super) found: Found,
    /// Who has named it first, by its place among all: those of the URL, then those that were told
    /// of.
    pub(super) by: usize,
    /// Who names another one that seems to be of before.
    pub(super) behind: HashMap<usize, Word>,
    /// When each was last heard, and who it was.
    pub(super) heard: HashMap<usize, Instant>,
    pub(super) ids: HashMap<usize, String>,
    /// Those that were told of, each since when.
    pub(super) told: [Option<(Told, Instant)>; MAX_LEARNED],
    /// Since when the master cannot be reached.
    pub(super) away_since: Option<Instant>,
}

impl Named {
    pub(super) fn new(pace: Pace) -> Named {
        Named {
            pace,
            master: None,
            found: Found::Nobody,
            by: 0,
            behind: HashMap::new(),
            heard: HashMap::new(),
            ids: HashMap::new(),
            told: Default::default(),
            away_since: None,
        }
    }

    /// A master was found by other means. False: one is named by now, which is the right one.
    pub(super) fn find(&mut self, host: &str, port: u16) -> bool {
        if self.master.is_some() {
            return false;
        }
        let one = Found::One(host.to_owned(), port);
        let is_first = self.found == Found::Nobody || self.found == one;
        self.found = if is_first { one } else { Found::Several };
        true
    }

    /// Whether somebody may have been at another master than this one.
    pub(super) fn is_another(&self, master: &Master) -> bool {
        let Master { host, port, .. } = master;
        match (&self.master, &self.found) {
            (Some(known), _) => (&known.host, known.port) != (host, *port),
            (None, Found::Nobody) => false,
            (None, Found::One(found, at)) => (found, at) != (host, port),
            (None, Found::Several) => true,
        }
    }

    fn is_recent(&self, at: Instant, now: Instant) -> bool {
        now.saturating_duration_since(at) < self.pace.gone
    }

    pub(super) fn is_heard(&self, place: usize, now: Instant) -> bool {
        let heard = self.heard.get(&place);
        heard.is_some_and(|at| self.is_recent(*at, now))
    }

    /// Of how many Sentinels most are needed: of those of the URL, `count`, and of all others that
    /// are heard. Where the master itself has been away for long, whoever is away as long does
    /// not count any more: else nobody would be believed again.
    pub(super) fn electorate(&self, count: usize, now: Instant) -> usize {
        let is_away = self.away_since.is_some_and(|at| !self.is_recent(at, now));
        let counts = |place: usize| (place < count && !is_away) || self.is_heard(place, now);
        let all = 0..count + MAX_LEARNED;
        all.filter(|place| counts(*place)).count()
    }

    /// Whether a Sentinel that names a master is believed; the URL names `count` of them. One that
    /// has not heard of the last failover is not. If most of them have not, and nobody knows it
    /// otherwise for long enough, there was none: they were made to forget.
    pub(super) fn believes(
        &mut self,
        (index, count): (usize, usize),
        master: &Master,
        now: Instant,
    ) -> bool {
        self.heard.insert(index, now);
        if !self.is_behind(index, master) {
            self.behind.clear();
            return true;
        }
        let Pace { fresh, clear, .. } = self.pace;
        let is_said =
            |word: &Word| word.master == *master && now.saturating_duration_since(word.at) < fresh;
        match self.behind.get_mut(&index).filter(|word| is_said(word)) {
            Some(word) => word.at = now,
            None => {
                let (master, since, at) = (master.clone(), now, now);
                self.behind.insert(index, Word { master, since, at });
            }
        }
        let is_old = |word: &&Word| now.saturating_duration_since(word.since) >= clear;
        let agree = self.behind.values().filter(|word| is_said(word));
        let agree = agree.filter(is_old);
        let is_clear = agree.count() * 2 > self.electorate(count, now);
        if is_clear {
            self.behind.clear();
        }
        is_clear
    }

    /// A Sentinel has said who it is. False: it is not the one that was told of at this place, or
    /// is listened to at another one already.
    pub(super) fn is_at(&mut self, (index, count): (usize, usize), id: &str, now: Instant) -> bool {
        self.ids.insert(index, id.to_owned());
        let is_it =
            |told: &Option<(Told, Instant)>| told.as_ref().is_some_and(|(told, _)| told.id == id);
        let is_named = |place: usize| {
            let known = self.ids.get(&place);
            known.is_some_and(|known| known == id) && self.is_heard(place, now)
        };
        let wanted = (index < count).then_some(index);
        let wanted = wanted.or_else(|| (0..count).find(|place| is_named(*place)));
        let places = self.told.iter().enumerate();
        let twice = places.filter(|(slot, told)| {
            let place = count + slot;
            // Whom the URL names is listened to there.
            (is_it(told) && wanted.is_some()) || (place == index && !is_it(told))
        });
        let twice: Vec<usize> = twice.map(|(slot, _)| slot).collect();
        for slot in &twice {
            self.told[*slot] = None;
            self.heard.remove(&(count + slot));
            self.behind.remove(&(count + slot));
        }
        index < count || !twice.contains(&(index - count))
    }

    /// A Sentinel tells of others. True: some are new.
    pub(super) fn learn(&mut self, count: usize, others: Vec<Told>, now: Instant) -> bool {
        let mut is_news = false;
        for other in others {
            let mut known = self.ids.iter().filter(|(_, id)| **id == other.id);
            let is_here = known.any(|(place, _)| self.is_heard(*place, now));
            let is_same = |told: &Option<(Told, Instant)>| {
                told.as_ref().is_some_and(|(told, _)| *told == other)
            };
            if is_here || self.told.iter().any(is_same) {
                continue;
            }
            // A place of one that is gone is free.
            let is_free = |slot: usize| {
                let told = self.told[slot].as_ref();
                let is_new = told.is_some_and(|(_, since)| self.is_recent(*since, now));
                !is_new && !self.is_heard(count + slot, now)
            };
            let Some(slot) = (0..MAX_LEARNED).find(|slot| is_free(*slot)) else {
                continue;
            };
            let place = count + slot;
            self.ids.remove(&place);
            if self.by == place {
                // Another one is to be there.
                self.by = usize::MAX;
            }
            self.told[slot] = Some((other, now));
            is_news = true;
        }
        is_news
    }

    /// Whether a Sentinel seems to have missed a failover: by its count, or by the address. That
    /// may come after the count, from the one that sees to the failover.
    pub(super) fn is_behind(&self, index: usize, master: &Master) -> bool {
        let Some(known) = &self.master else {
            return false;
        };
        known.epoch > master.epoch
            || (known.epoch == master.epoch && index != self.by && known != master)
    }
}
