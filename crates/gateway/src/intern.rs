//! Strings that many connections have in common, kept once.

use std::sync::{Arc, Mutex, PoisonError};

use hashbrown::HashMap;
use heartline_core::auth::{Identity, UserKey};

/// Distinct strings kept at most; more are simply not shared.
const BOUND: usize = 16_384;

#[derive(Default)]
pub(crate) struct Interner {
    strings: Mutex<HashMap<Arc<str>, ()>>,
}

impl Interner {
    /// The shared copy of `text`.
    pub(crate) fn intern(&self, text: &str) -> Arc<str> {
        let mut strings = self.strings.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((kept, ())) = strings.get_key_value(text) {
            return kept.clone();
        }
        if strings.len() >= BOUND {
            strings.retain(|kept, ()| Arc::strong_count(kept) > 1);
        }
        let made: Arc<str> = text.into();
        if strings.len() < BOUND {
            strings.insert(made.clone(), ());
        }
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
}
