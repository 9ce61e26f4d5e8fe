//! What a user's clients keep for the next time: a small object and the rooms they were in.
//!
//! A client says what changes, not what is: a merge patch (RFC 7396). So two devices that change
//! different members both get what they wanted, and a store merges in its own transaction,
//! whichever node brings a patch.

use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::auth::{BoxFuture, UserKey};
use crate::store::error::StoreError;

/// Most characters of what is kept, as JSON: what fits a half-filled form, and not a document.
pub const MAX_METADATA: usize = 4096;
/// How deep it may be, the object itself counted: clients of all languages parse that.
pub const MAX_DEPTH: usize = 16;
/// Most members of the object itself.
pub const MAX_MEMBERS: usize = 128;
/// Most rooms that are kept.
pub const MAX_ROOMS: usize = 32;
/// Most bytes of a patch: it may name much that is to go.
pub const MAX_PATCH: usize = 64 << 10;

/// What is kept of a user.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checkpoint {
    /// An object as JSON.
    pub metadata: String,
    /// The rooms, the newest first.
    pub rooms: Vec<String>,
    /// How many patches it is made of.
    pub version: u64,
    /// Unix milliseconds.
    pub last_seen_at: u64,
}

/// A change to what is kept.
#[derive(Debug, Clone)]
pub struct Patch {
    members: Map<String, Value>,
    if_version: Option<u64>,
}

impl Patch {
    /// The object of a merge patch; with `if_version` it holds for that version alone, and 0 is
    /// the one before the first.
    ///
    /// # Errors
    /// [`Bound`], when it is too large by itself; `None` when it is no object.
    pub fn parse(json: &str, if_version: Option<u64>) -> Result<Patch, Option<Bound>> {
        if json.len() > MAX_PATCH {
            let size = json.chars().count();
            return Err(Some(Bound::Characters(size)));
        }
        let members: Map<String, Value> = serde_json::from_str(json).map_err(|_| None)?;
        let depth = depth(&members);
        if depth > MAX_DEPTH {
            return Err(Some(Bound::Depth(depth)));
        }
        Ok(Patch {
            members,
            if_version,
        })
    }
}

/// A bound, and what there would have been instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// [`MAX_METADATA`] characters.
    Characters(usize),
    /// [`MAX_DEPTH`] levels.
    Depth(usize),
    /// [`MAX_MEMBERS`] members.
    Members(usize),
}

impl Bound {
    /// What there would have been.
    pub fn size(self) -> usize {
        let (Bound::Characters(size) | Bound::Depth(size) | Bound::Members(size)) = self;
        size
    }

    /// What there may be.
    pub fn max(self) -> usize {
        match self {
            Bound::Characters(_) => MAX_METADATA,
            Bound::Depth(_) => MAX_DEPTH,
            Bound::Members(_) => MAX_MEMBERS,
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self {
            Bound::Characters(_) => "characters",
            Bound::Depth(_) => "levels",
            Bound::Members(_) => "members",
        };
        let (size, max) = (self.size(), self.max());
        write!(f, "It would have {size} {what}, and at most {max} are kept")
    }
}

/// What came of a patch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is in what is kept from this version on.
    Kept(u64),
    /// Another was faster; this is what there is, and nothing was changed.
    Conflict {
        /// The version there is.
        version: u64,
        /// What it holds, as JSON.
        metadata: String,
    },
    /// There would be too much; nothing was changed.
    TooLarge(Bound),
}

/// What is to be changed of a user's.
#[derive(Debug, Clone)]
pub struct Changes {
    /// The user.
    pub user: Arc<UserKey>,
    /// In their order.
    pub patches: Vec<Patch>,
    /// The rooms from now on, at most [`MAX_ROOMS`]; `None`: those there are.
    pub rooms: Option<Vec<String>>,
    /// The present time, Unix milliseconds.
    pub now: u64,
}

/// What changes come to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changed {
    /// Of each patch, in their order.
    pub outcomes: Vec<Outcome>,
    /// What is kept now, if anything is.
    pub checkpoint: Option<Checkpoint>,
    /// That is something else than before.
    pub differs: bool,
}

impl Changes {
    /// What becomes of `before`. Of whom nothing is kept, nothing is kept because rooms were
    /// left.
    pub fn apply(&self, before: Option<Checkpoint>) -> Changed {
        let kept = before.as_ref().map_or("{}", |before| &before.metadata);
        let mut members: Map<String, Value> = serde_json::from_str(kept).unwrap_or_default();
        let mut version = before.as_ref().map_or(0, |before| before.version);
        let was = version;
        let outcomes = self.patches.iter().map(|patch| {
            if patch.if_version.is_some_and(|wanted| wanted != version) {
                let metadata = text(&members);
                return Outcome::Conflict { version, metadata };
            }
            let mut merged = members.clone();
            merge(&mut merged, &patch.members);
            if let Some(bound) = over(&merged) {
                return Outcome::TooLarge(bound);
            }
            members = merged;
            version += 1;
            Outcome::Kept(version)
        });
        let outcomes: Vec<_> = outcomes.collect();
        if before.is_none() && version == was {
            return Changed {
                outcomes,
                ..Changed::default()
            };
        }
        let mut checkpoint = before.clone().unwrap_or_default();
        if version > was {
            checkpoint.metadata = text(&members);
            checkpoint.version = version;
        }
        if version > was || self.rooms.is_some() {
            checkpoint.last_seen_at = checkpoint.last_seen_at.max(self.now);
        }
        if let Some(rooms) = &self.rooms {
            checkpoint.rooms = rooms.iter().take(MAX_ROOMS).cloned().collect();
        }
        Changed {
            outcomes,
            differs: before.as_ref() != Some(&checkpoint),
            checkpoint: Some(checkpoint),
        }
    }
}

/// Keeps checkpoints.
pub trait Checkpoints: Send + Sync {
    /// Does what [`Changes::apply`] says, in one transaction with what was kept before; the
    /// answer is there once it is kept.
    fn change(&self, changes: Changes) -> BoxFuture<Result<Changed, StoreError>>;

    /// What is kept of a user.
    fn checkpoint(&self, user: &Arc<UserKey>) -> BoxFuture<Result<Option<Checkpoint>, StoreError>>;
}

/// RFC 7396, section 2. The patch is at most [`MAX_DEPTH`] deep.
fn merge(target: &mut Map<String, Value>, patch: &Map<String, Value>) {
    for (name, value) in patch {
        match value {
            Value::Null => drop(target.remove(name)),
            Value::Object(patch) => {
                let inner = target.entry(name.clone()).or_insert(Value::Null);
                if !inner.is_object() {
                    *inner = Value::Object(Map::new());
                }
                if let Value::Object(inner) = inner {
                    merge(inner, patch);
                }
            }
            value => drop(target.insert(name.clone(), value.clone())),
        }
    }
}

/// The bound that an object is over.
fn over(members: &Map<String, Value>) -> Option<Bound> {
    let depth = depth(members);
    if depth > MAX_DEPTH {
        return Some(Bound::Depth(depth));
    }
    if members.len() > MAX_MEMBERS {
        return Some(Bound::Members(members.len()));
    }
    let size = text(members).chars().count();
    (size > MAX_METADATA).then_some(Bound::Characters(size))
}

/// How many levels an object has. The parser refuses what has more than 128.
fn depth(members: &Map<String, Value>) -> usize {
    fn of(value: &Value) -> usize {
        match value {
            Value::Object(members) => depth(members),
            Value::Array(items) => 1 + items.iter().map(of).max().unwrap_or(0),
            _ => 0,
        }
    }
    1 + members.values().map(of).max().unwrap_or(0)
}

fn text(members: &Map<String, Value>) -> String {
    // Only maps with other keys than text fail, and there are none.
    serde_json::to_string(members).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn user() -> Arc<UserKey> {
        Arc::new(UserKey {
            tenant_id: None,
            user_id: "u".into(),
            user_type: None,
        })
    }

    fn changes(patches: &[(&str, Option<u64>)]) -> Changes {
        let patch = |(json, version): &(&str, _)| Patch::parse(json, *version).unwrap();
        Changes {
            user: user(),
            patches: patches.iter().map(patch).collect(),
            rooms: None,
            now: 7,
        }
    }

    fn merged(target: &str, patch: &str) -> String {
        let before = Checkpoint {
            metadata: target.into(),
            ..Checkpoint::default()
        };
        let after = changes(&[(patch, None)]).apply(Some(before));
        after.checkpoint.unwrap().metadata
    }

    /// RFC 7396, appendix A: those of its cases whose both sides are objects.
    #[test]
    fn the_examples_of_rfc_7396_come_out_as_it_says() {
        for (target, patch, result) in [
            (r#"{"a":"b"}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"b":"c"}"#, r#"{"a":"b","b":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"a":null}"#, "{}"),
            (r#"{"a":"b","b":"c"}"#, r#"{"a":null}"#, r#"{"b":"c"}"#),
            (r#"{"a":["b"]}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"c"}"#, r#"{"a":["b"]}"#, r#"{"a":["b"]}"#),
            (
                r#"{"a":{"b":"c"}}"#,
                r#"{"a":{"b":"d","c":null}}"#,
                r#"{"a":{"b":"d"}}"#,
            ),
            (r#"{"a":[{"b":"c"}]}"#, r#"{"a":[1]}"#, r#"{"a":[1]}"#),
            (r#"{"e":null}"#, r#"{"a":1}"#, r#"{"a":1,"e":null}"#),
            ("{}", r#"{"a":{"bb":{"ccc":null}}}"#, r#"{"a":{"bb":{}}}"#),
        ] {
            assert_eq!(merged(target, patch), result, "{target} {patch}");
        }
    }

    #[test]
    fn of_two_who_build_on_one_version_the_second_hears_what_there_is() {
        let both = changes(&[(r#"{"a":1}"#, Some(0)), (r#"{"b":1}"#, Some(0))]);
        let after = both.apply(None);
        let there = Outcome::Conflict {
            version: 1,
            metadata: r#"{"a":1}"#.into(),
        };
        assert_eq!(after.outcomes, [Outcome::Kept(1), there]);
        assert!(after.differs);
        let next = changes(&[(r#"{"b":1}"#, Some(1))]).apply(after.checkpoint);
        assert_eq!(next.outcomes, [Outcome::Kept(2)]);
        assert_eq!(next.checkpoint.unwrap().metadata, r#"{"a":1,"b":1}"#);
    }

    #[test]
    fn what_would_be_too_much_changes_nothing_and_names_both_sizes() {
        let long = |characters: usize| format!(r#"{{"a":"{}"}}"#, "é".repeat(characters - 8));
        let fits = changes(&[(&long(MAX_METADATA), None)]).apply(None);
        assert_eq!(fits.outcomes, [Outcome::Kept(1)]);
        let after = changes(&[(r#"{"b":1}"#, None)]).apply(fits.checkpoint.clone());
        let bound = Bound::Characters(MAX_METADATA + 6);
        assert_eq!(after.outcomes, [Outcome::TooLarge(bound)]);
        assert_eq!((after.checkpoint, after.differs), (fits.checkpoint, false));
        let said = "It would have 4102 characters, and at most 4096 are kept";
        assert_eq!(bound.to_string(), said);

        let members = |count: usize| {
            let members: Vec<_> = (0..count).map(|name| format!(r#""{name}":1"#)).collect();
            format!("{{{}}}", members.join(","))
        };
        let many = changes(&[(&members(129), None), (&members(128), None)]).apply(None);
        let bound = Outcome::TooLarge(Bound::Members(129));
        assert_eq!(many.outcomes, [bound, Outcome::Kept(1)]);

        let nested = |levels: usize| {
            let inner = levels - 1;
            format!(r#"{{"a":{}{}}}"#, "[".repeat(inner), "]".repeat(inner))
        };
        assert!(Patch::parse(&nested(16), None).is_ok());
        let refused = Patch::parse(&nested(17), None).unwrap_err();
        assert_eq!(refused, Some(Bound::Depth(17)));
        assert_eq!(Patch::parse(&nested(1000), None).unwrap_err(), None);
        assert!(Patch::parse(&long(MAX_PATCH), None).unwrap_err().is_some());
        for no_object in ["[]", "1", "null", r#""a""#, "", "{"] {
            assert_eq!(Patch::parse(no_object, None).unwrap_err(), None);
        }
    }

    #[test]
    fn leaving_rooms_keeps_nothing_of_whom_nothing_is_kept() {
        let mut left = changes(&[]);
        left.rooms = Some(vec!["r".into()]);
        assert_eq!(left.apply(None), Changed::default());
        let kept = changes(&[("{}", None)]).apply(None).checkpoint;
        left.now = 9;
        let after = left.apply(kept).checkpoint.unwrap();
        assert_eq!((after.rooms, after.last_seen_at), (vec!["r".into()], 9));
        assert_eq!((&*after.metadata, after.version), ("{}", 1));
    }

    /// JSON of a few names and little depth, so that patches meet what is there.
    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<i8>().prop_map(Value::from),
            "[a-c]{0,2}".prop_map(Value::from),
            prop::collection::vec(any::<u8>(), 0..3).prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            let members = prop::collection::btree_map("[a-d]", inner, 0..4);
            members.prop_map(|members| Value::Object(members.into_iter().collect()))
        })
    }

    /// The pseudocode of RFC 7396, section 2, over values instead of maps.
    fn model(target: Value, patch: &Value) -> Value {
        let Value::Object(patch) = patch else {
            return patch.clone();
        };
        let mut target = match target {
            Value::Object(members) => members,
            _ => Map::new(),
        };
        for (name, value) in patch {
            if value.is_null() {
                target.remove(name);
            } else {
                let before = target.remove(name).unwrap_or(Value::Null);
                target.insert(name.clone(), model(before, value));
            }
        }
        Value::Object(target)
    }

    proptest! {
        #[test]
        fn patches_are_merged_as_the_rfc_says(all in prop::collection::vec(value(), 1..6)) {
            let patches: Vec<_> = all.into_iter().filter(Value::is_object).collect();
            let mut expected = Value::Object(Map::new());
            let mut checkpoint = None;
            for patch in &patches {
                expected = model(expected, patch);
                let text = patch.to_string();
                checkpoint = changes(&[(&text, None)]).apply(checkpoint).checkpoint;
            }
            let kept = checkpoint.map_or("{}".into(), |checkpoint| checkpoint.metadata);
            prop_assert_eq!(kept, expected.to_string());
        }
    }
}
