//! Invites in memory, within bounds: the model of what a store keeps of them.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use crate::auth::UserKey;
use crate::store::conversations::{Added, Membership};
use crate::store::invites::{Invite, InviteQuery, NewInvite, Unusable, Used};
use crate::store::people::People;

/// How many invites are kept; the first code goes when there are more.
const INVITES: usize = 65_536;

/// How many uses of all.
const USES: usize = 1_000_000;

struct Known {
    invite: Invite,
    tenant: Option<Arc<str>>,
    used: HashSet<Arc<UserKey>>,
}

/// Invites by their codes.
#[derive(Default)]
pub(super) struct Codes {
    known: BTreeMap<String, Known>,
    uses: usize,
}

impl Codes {
    pub(super) fn create(&mut self, code: &str, new: NewInvite) -> bool {
        if self.known.contains_key(code) {
            return false;
        }
        while self.known.len() >= INVITES || self.uses >= USES {
            // Codes are random: any one is as good.
            let Some((_, gone)) = self.known.pop_first() else {
                break;
            };
            self.uses -= gone.used.len();
        }
        let known = Known {
            tenant: new.tenant_id.clone(),
            invite: Invite::new(code.to_owned(), new),
            used: HashSet::new(),
        };
        self.known.insert(code.to_owned(), known);
        true
    }

    pub(super) fn get(&self, code: &str) -> Option<Invite> {
        Some(self.known.get(code)?.invite.clone())
    }

    pub(super) fn list(&self, query: &InviteQuery) -> Vec<Invite> {
        let fits = |known: &&Known| {
            let after = query.after.as_ref();
            let conversation = query.conversation_id.as_ref();
            known.tenant == query.tenant_id
                && after.is_none_or(|after| known.invite.code > *after)
                && conversation.is_none_or(|id| known.invite.conversation_id == *id)
        };
        let fitting = self.known.values().filter(fits).take(query.limit);
        fitting.map(|known| known.invite.clone()).collect()
    }

    pub(super) fn revoke(&mut self, code: &str, now: u64) -> Option<Invite> {
        let known = self.known.get_mut(code)?;
        known.invite.revoked_at.get_or_insert(now);
        Some(known.invite.clone())
    }

    /// Removes invites that ended before this moment, Unix milliseconds, and who came by them; how
    /// many invites and uses those were.
    pub(super) fn clean(&mut self, before: u64) -> u64 {
        let (invites, uses) = (self.known.len(), self.uses);
        self.known.retain(|_, known| {
            let is_kept = known.invite.ends_at().is_none_or(|at| at >= before);
            if !is_kept {
                self.uses -= known.used.len();
            }
            is_kept
        });
        (invites - self.known.len() + uses - self.uses) as u64
    }

    pub(super) fn take(
        &mut self,
        people: &mut People,
        code: &str,
        user: &Arc<UserKey>,
        now: u64,
    ) -> Result<Used, Unusable> {
        let known = self.known.get_mut(code).ok_or(Unusable::NotFound)?;
        if known.tenant != user.tenant_id {
            return Err(Unusable::NotFound);
        }
        let conversation_id = known.invite.conversation_id.clone();
        let is_used = known.used.contains(user);
        let usable = match is_used {
            true => known.invite.holds(now),
            false => known.invite.admits(now),
        };
        if let Err(why) = usable {
            // Who has come by it once stays what they are when it is over.
            let added = Added::Known;
            return match is_used && people.is_member(&conversation_id, user) {
                true => Ok(Used {
                    conversation_id,
                    added,
                }),
                false => Err(why),
            };
        }
        let added = people.add(&conversation_id, user, Membership::Invited, now);
        if added == Added::Full {
            return Err(Unusable::Full);
        }
        if known.used.insert(user.clone()) {
            known.invite.uses += 1;
            self.uses += 1;
        }
        Ok(Used {
            conversation_id,
            added,
        })
    }
}
