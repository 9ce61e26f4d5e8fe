//! Checkpoints of users, on every store.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod suite;

use std::sync::Arc;

use heartline_core::auth::UserKey;
use heartline_core::store::{Changed, Changes, Checkpoint, MessageStore, Outcome, Patch};
use suite::{on_each, on_each_kept};

fn user(tenant: Option<&str>, id: &str, kind: Option<&str>) -> Arc<UserKey> {
    Arc::new(UserKey {
        tenant_id: tenant.map(Into::into),
        user_id: id.into(),
        user_type: kind.map(Into::into),
    })
}

async fn change(
    store: &Arc<dyn MessageStore>,
    user: &Arc<UserKey>,
    patches: &[(&str, Option<u64>)],
    rooms: Option<&[&str]>,
    now: u64,
) -> Changed {
    let patch = |(json, version): &(&str, _)| Patch::parse(json, *version).unwrap();
    let changes = Changes {
        user: user.clone(),
        patches: patches.iter().map(patch).collect(),
        rooms: rooms.map(|rooms| rooms.iter().map(ToString::to_string).collect()),
        now,
    };
    let changed = store.checkpoints().unwrap().change(changes);
    changed.await.unwrap()
}

async fn kept(store: &Arc<dyn MessageStore>, user: &Arc<UserKey>) -> Option<Checkpoint> {
    store.checkpoints().unwrap().checkpoint(user).await.unwrap()
}

#[test]
fn what_was_kept_is_there_for_this_user_and_for_no_other() {
    on_each(async |store| {
        let ann = user(None, "ann", None);
        let others = [
            user(None, "Ann", None),
            user(Some("t"), "ann", None),
            user(None, "ann", Some("driver")),
        ];
        let rooms = Some(&["b", "a"][..]);
        let all = [(r#"{"a":1,"b":"é"}"#, None), (r#"{"a":null}"#, None)];
        let changed = change(&store, &ann, &all, rooms, 7).await;
        assert_eq!(changed.outcomes, [Outcome::Kept(1), Outcome::Kept(2)]);
        let expected = Checkpoint {
            metadata: r#"{"b":"é"}"#.into(),
            rooms: vec!["b".into(), "a".into()],
            version: 2,
            last_seen_at: 7,
        };
        assert_eq!(changed.checkpoint, Some(expected.clone()));
        assert_eq!(kept(&store, &ann).await, Some(expected));
        for other in &others {
            assert_eq!(kept(&store, other).await, None);
            // Rooms alone make no checkpoint.
            assert_eq!(
                change(&store, other, &[], rooms, 8).await,
                Changed::default()
            );
            assert_eq!(kept(&store, other).await, None);
        }
    });
}

#[test]
fn the_rooms_and_the_time_of_the_end_change_nothing_else() {
    on_each(async |store| {
        let ann = user(Some("t"), "ann", Some("driver"));
        change(&store, &ann, &[(r#"{"a":1}"#, None)], Some(&["r"]), 7).await;
        change(&store, &ann, &[], Some(&[]), 9).await;
        let checkpoint = kept(&store, &ann).await.unwrap();
        assert_eq!((checkpoint.rooms, checkpoint.last_seen_at), (vec![], 9));
        assert_eq!(
            (&*checkpoint.metadata, checkpoint.version),
            (r#"{"a":1}"#, 1)
        );
    });
}

#[test]
fn of_many_who_build_on_one_version_one_is_kept() {
    on_each(async |store| {
        let ann = user(None, "ann", None);
        for version in 0..20 {
            let racers: Vec<_> = (0..16)
                .map(|racer| {
                    let (store, ann) = (store.clone(), ann.clone());
                    tokio::spawn(async move {
                        let patch = format!(r#"{{"by":{racer}}}"#);
                        let all = [(&*patch, Some(version))];
                        change(&store, &ann, &all, None, 7).await.outcomes
                    })
                })
                .collect();
            let mut kept = 0;
            for racer in racers {
                match &racer.await.unwrap()[..] {
                    [Outcome::Kept(now)] => {
                        kept += 1;
                        assert_eq!(*now, version + 1);
                    }
                    [Outcome::Conflict { version: now, .. }] => assert_eq!(*now, version + 1),
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!(kept, 1, "version {version}");
        }
    });
}

#[test]
fn patches_of_many_at_once_are_all_in_what_is_kept() {
    on_each(async |store| {
        let ann = user(None, "ann", None);
        let all: Vec<_> = (0..100)
            .map(|number| {
                let (store, ann) = (store.clone(), ann.clone());
                tokio::spawn(async move {
                    let patch = format!(r#"{{"{number}":{number}}}"#);
                    change(&store, &ann, &[(&patch, None)], None, 7).await
                })
            })
            .collect();
        for one in all {
            one.await.unwrap();
        }
        let checkpoint = kept(&store, &ann).await.unwrap();
        assert_eq!(checkpoint.version, 100);
        for number in 0..100 {
            let member = format!(r#""{number}":{number}"#);
            assert!(checkpoint.metadata.contains(&member), "{member}");
        }
    });
}

#[test]
fn what_was_kept_is_there_when_the_process_comes_back() {
    on_each_kept(async |kept_store| {
        let ann = user(None, "ann", None);
        let store = kept_store.open();
        let before = change(&store, &ann, &[(r#"{"a":1}"#, None)], Some(&["r"]), 7).await;
        drop(store);
        let store = kept_store.open();
        assert_eq!(kept(&store, &ann).await, before.checkpoint);
        let after = change(&store, &ann, &[(r#"{"b":1}"#, Some(1))], None, 8).await;
        assert_eq!(after.outcomes, [Outcome::Kept(2)]);
    });
}
