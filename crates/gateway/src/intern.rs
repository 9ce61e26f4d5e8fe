//! Strings that many connections have in common, kept once.

use std::sync::{Arc, Mutex, PoisonError};

use hashbrown::HashMap;
use heartline_core::auth::{Identity, UserKey};

/// Distinct strings kept at most.
const BOUND: usize = 16_384;
/// Longest string that is kept, bytes: 8 MB in all.
const LONGEST: usize = 512;

#[derive(Default)]
pub(crate) struct Interner {
    strings: Mutex<HashMap<Arc<str>, ()>>,
}

impl Interner {
    /// The shared copy of `text`, if it is not too long for that.
    pub(crate) fn intern(&self, text: &str) -> Arc<str> {
        if text.len() > LONGEST {
            return text.into();
        }
        let mut strings = self.strings.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((kept, ())) = strings.get_key_value(text) {
            return kept.clone();
        }
        if strings.len() >= BOUND {
            strings.retain(|kept, ()| Arc::strong_count(kept) > 1);
            if strings.len() > BOUND / 4 * 3 {
                // Almost all are in use. Those who have them keep them, and newcomers share
                // what is newest; a search at each of them would cost more than it saves.
                strings.clear();
            }
        }
        let made: Arc<str> = text.into();
        strings.insert(made.clone(), ());
        made
    }

    /// An identity whose tenant and user type are shared.
    pub(crate) fn intern_identity(&self, mut identity: Identity) -> Identity {
        if let Some(user) = identity.user.take() {
            let share = |text: &Option<Arc<str>>| text.as_ref().map(|text| self.intern(text));
            identity.user = Some(Arc::new(UserKey {
                tenant_id: share(&user.tenant_id),
                user_type: share(&user.user_type),
                user_id: user.user_id.clone(),
            }));
        }
        identity
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_strings_are_one_and_the_number_is_bounded() {
        let interner = Interner::default();
        assert!(Arc::ptr_eq(&interner.intern("a"), &interner.intern("a")));
        for number in 0..BOUND * 2 {
            interner.intern(&number.to_string());
        }
        assert!(interner.strings.lock().unwrap().len() <= BOUND);
    }

    #[test]
    fn newcomers_share_theirs_also_when_all_that_was_kept_is_in_use() {
        let interner = Interner::default();
        let held: Vec<_> = (0..BOUND)
            .map(|number| interner.intern(&number.to_string()))
            .collect();
        let new = interner.intern("new");
        assert!(Arc::ptr_eq(&interner.intern("new"), &new));
        assert_eq!((&*held[7], held.len()), ("7", BOUND));
        let long = "x".repeat(LONGEST + 1);
        assert!(!Arc::ptr_eq(
            &interner.intern(&long),
            &interner.intern(&long)
        ));
    }
}
