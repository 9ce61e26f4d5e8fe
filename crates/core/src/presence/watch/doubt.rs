//! What is known of users who are watched, and since when it is in doubt: changes that were heard,
//! answers to questions, and whom to ask again.

use std::sync::Arc;

use hashbrown::HashMap;
use heartline_wire::time::Micros;

use super::known::UserName;
use super::{Board, DOUBTS, Question};
use crate::entries::{Standing, TypePresence, UserPresence};
use crate::presence::audit::{Believed, Who};
use crate::presence::edge::Edge;

impl Board {
    /// Changes of presence were heard. Whether any is of interest.
    pub fn hear(&mut self, edges: &[Edge]) -> bool {
        self.turn += 1;
        let mut any = false;
        for edge in edges {
            let name = UserName {
                tenant: edge.user.tenant_id.clone(),
                user: edge.user.user_id.clone(),
            };
            let Some(register) = self.users.get_mut(&name) else {
                continue;
            };
            let user_type = edge.user.user_type.as_ref();
            // Who came into a room, or was there all the time, may have been lost sight of.
            if edge.others.is_some() && register.knows(user_type, edge.rev) {
                continue;
            }
            any = true;
            register.set(user_type, (edge.online, edge.rev), self.turn, false);
            if !edge.online {
                register.last_seen = register.last_seen.max(Some(edge.at));
            }
            for id in &register.logs {
                self.logs.note(*id, &name.user);
            }
        }
        any
    }

    /// A question about some users.
    pub fn ask(&mut self, tenant: Option<Arc<str>>, users: Vec<Arc<str>>) -> Question {
        self.turn += 1;
        Question {
            tenant,
            users,
            turn: self.turn,
        }
    }

    /// Users who came and were not asked about, at most `max` of a tenant.
    pub fn next_question(&mut self, max: usize) -> Option<Question> {
        let tenant = self.unasked.first()?.tenant.clone();
        let mut users = Vec::new();
        let known = &self.users;
        self.unasked.retain(|name| {
            let register = known.get(name);
            let is_unknown = register.is_some_and(|register| !register.is_asked);
            let taken = is_unknown && name.tenant == tenant && users.len() < max;
            if taken {
                users.push(name.user.clone());
            }
            is_unknown && !taken
        });
        Some(self.ask(tenant, users))
    }

    /// Questions about everybody who is watched, each of at most `max` users.
    pub fn questions(&mut self, max: usize) -> Vec<Question> {
        let tenants = by_tenant(self.users.keys());
        self.ask_all(tenants, max)
    }

    /// The same about those of whom the last answer was not to be believed, if it is time. All
    /// others are as they are.
    pub fn doubtful(&mut self, max: usize, now: Micros) -> Vec<Question> {
        if self.doubtful.is_empty() || now < self.doubts_at {
            return Vec::new();
        }
        self.doubts_at = now + DOUBTS;
        let tenants = by_tenant(&self.doubtful);
        self.ask_all(tenants, max)
    }

    fn ask_all(&mut self, tenants: ByTenant, max: usize) -> Vec<Question> {
        let mut questions = Vec::new();
        for (tenant, users) in tenants {
            let parts = users.chunks(max).map(<[_]>::to_vec);
            questions.extend(parts.map(|part| self.ask(tenant.clone(), part)));
        }
        questions
    }

    /// The backplane's answer, in the order of the question. What was heard since it was asked
    /// is not undone by what the answer does not mention. Of whom it is `stale`, what is known is
    /// in doubt since then, `as_of` in Unix milliseconds.
    pub fn learn(&mut self, question: &Question, found: &[UserPresence], as_of: u64) {
        for (user, found) in question.users.iter().zip(found) {
            let name = UserName {
                tenant: question.tenant.clone(),
                user: user.clone(),
            };
            let Some(register) = self.users.get_mut(&name) else {
                continue;
            };
            register.is_asked = true;
            register.doubted = found.stale.then(|| register.doubted.unwrap_or(as_of));
            for one in &found.types {
                let user_type = one.user_type.as_ref();
                register.set(
                    user_type,
                    (one.online, one.rev),
                    question.turn,
                    !found.stale,
                );
            }
            if !found.stale {
                for known in &mut register.types {
                    let named =
                        |one: &&TypePresence| one.user_type.as_ref() == known.user_type.as_ref();
                    let is_there = found.types.iter().any(|one| named(&one));
                    if !is_there && known.turn <= question.turn {
                        known.online = false;
                    }
                }
                register.rev = register.rev.max(found.rev);
            }
            if !found.online {
                register.last_seen = register.last_seen.max(found.last_seen_at);
            }
            for id in &register.logs {
                self.logs.note(*id, user);
            }
            if found.stale {
                self.doubtful.insert(name);
            } else {
                self.doubtful.remove(&name);
            }
        }
    }

    /// Something of what is known may be lost, since so many Unix milliseconds: it is not to be
    /// believed before everybody was asked about. Who is being asked about because of an earlier
    /// [doubt](Self::doubt) has to be asked about again.
    pub fn distrust(&mut self, since: u64) {
        self.doubts += 1;
        self.suspend(since);
    }

    /// What is known is not to be believed since so many Unix milliseconds, as what changes is not
    /// heard of at present. Nothing is lost by that: it is heard of later.
    pub fn suspend(&mut self, since: u64) {
        if self.distrusted.is_none() {
            self.distrusted = Some(since);
            self.logs.soil_all();
        }
    }

    /// What is known can be believed by the backplane, of which it has this standing; if another
    /// than before, it may have been lost since so many Unix milliseconds. So it may when nothing
    /// was to be believed until now.
    pub fn stand(&mut self, standing: Standing, since: impl FnOnce() -> u64) {
        let before = self.standing.replace(standing);
        let is_same = before.map_or(self.distrusted.is_none(), |before| before == standing);
        if !is_same {
            self.distrust(since());
        }
    }

    /// Whether everybody has to be asked about before what is known can be believed.
    pub fn is_in_doubt_of_all(&self) -> bool {
        self.answered < self.doubts
    }

    /// The number of the last doubt.
    pub fn doubt(&self) -> u64 {
        self.doubts
    }

    /// It can be believed again, as everybody has been asked about since this
    /// [doubt](Self::doubt); if that is still the last.
    pub fn trust(&mut self, doubt: u64) {
        self.answered = self.answered.max(doubt);
        if self.doubts == doubt && self.distrusted.take().is_some() {
            self.logs.soil_all();
        }
    }

    /// Since when it is not believed.
    pub fn distrusted(&self) -> Option<u64> {
        self.distrusted
    }

    /// What readers believe of users, who are not told that it may not be so: of those who are to
    /// be looked at `again`, and of `some` others, each time of others.
    pub fn believed(&mut self, again: &[Who], some: usize) -> Vec<Believed> {
        if self.distrusted.is_some() {
            return Vec::new();
        }
        let again = again.iter().map(|who| UserName {
            tenant: who.tenant.clone(),
            user: who.user.clone(),
        });
        let mut looked_at: Vec<UserName> = again.collect();
        if self.looked_at >= self.users.len() {
            self.looked_at = 0;
        }
        // Some milliseconds for a million users.
        let others = self.users.keys().skip(self.looked_at).take(some);
        let others: Vec<&UserName> = others.filter(|name| !looked_at.contains(name)).collect();
        looked_at.extend(others.into_iter().cloned());
        self.looked_at += some;
        let believed = looked_at.into_iter().filter_map(|name| {
            let logs = self.users.get(&name)?.logs.iter();
            let mut logs = logs.filter_map(|id| self.logs.of(*id));
            let shown = logs.find_map(|log| {
                let is_told = log.is_full && !log.stale && !log.readers.is_empty();
                log.users.get(&name.user).filter(|_| is_told)
            })?;
            let UserName { tenant, user } = name;
            Some(Believed {
                who: Who { tenant, user },
                online: shown.online,
                rev: shown.rev,
            })
        });
        believed.collect()
    }
}

/// Users of each tenant.
type ByTenant = HashMap<Option<Arc<str>>, Vec<Arc<str>>>;

fn by_tenant<'a>(names: impl IntoIterator<Item = &'a UserName>) -> ByTenant {
    let mut tenants = ByTenant::new();
    for name in names {
        let users = tenants.entry(name.tenant.clone()).or_default();
        users.push(name.user.clone());
    }
    tenants
}
