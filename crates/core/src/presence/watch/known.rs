//! What is known of each user who is watched, by the number of the change.

use std::sync::Arc;

use hashbrown::HashSet;

use super::Scope;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct UserName {
    pub(super) tenant: Option<Arc<str>>,
    pub(super) user: Arc<str>,
}

/// What is known of a type of user.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) user_type: Option<Arc<str>>,
    pub(super) online: bool,
    pub(super) rev: u64,
    /// The turn in which that was heard.
    pub(super) turn: u64,
}

/// What is known of a user.
#[derive(Debug, Default)]
pub(super) struct Register {
    pub(super) types: Vec<Known>,
    /// The number of the last change that is known of, whichever type's.
    pub(super) rev: u64,
    pub(super) last_seen: Option<u64>,
    /// It was asked about.
    pub(super) is_asked: bool,
    /// The last answer was not to be believed: since when, Unix milliseconds.
    pub(super) doubted: Option<u64>,
    /// The numbers of the logs that want to know.
    pub(super) logs: HashSet<u64>,
}

impl Register {
    pub(super) fn online(&self) -> bool {
        self.types.iter().any(|known| known.online)
    }

    /// Whether this change of a type is known, or a later one.
    pub(super) fn knows(&self, user_type: Option<&Arc<str>>, rev: u64) -> bool {
        let mut types = self.types.iter();
        types.any(|known| known.user_type.as_ref() == user_type && known.rev >= rev)
    }

    pub(super) fn set(
        &mut self,
        user_type: Option<&Arc<str>>,
        (online, rev): (bool, u64),
        turn: u64,
        is_certain: bool,
    ) {
        self.rev = self.rev.max(rev);
        let known = |known: &&mut Known| known.user_type.as_ref() == user_type;
        match self.types.iter_mut().find(known) {
            Some(known) if rev > known.rev || (is_certain && known.turn < turn) => {
                (known.online, known.rev, known.turn) = (online, rev, turn);
            }
            // Heard once more: an answer to what was asked before that does not undo it.
            Some(known) if rev == known.rev => known.turn = known.turn.max(turn),
            Some(_) => {}
            None => self.types.push(Known {
                user_type: user_type.cloned(),
                online,
                rev,
                turn,
            }),
        }
    }
}

/// A user of a scope's tenant.
pub(super) fn name(scope: &Scope, user: &Arc<str>) -> UserName {
    UserName {
        tenant: scope.tenant.clone(),
        user: user.clone(),
    }
}
