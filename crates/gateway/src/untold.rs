//! Messages that were stored, and of which a killed process has told nobody.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use heartline_core::message::Message;
use heartline_core::namespaces::NamespaceId;
use heartline_core::rooms;
use heartline_core::store::{Channel, HistoryQuery, MAX_PART, Start, StoreError, StoredMessage};
use tokio::task::JoinSet;

use crate::event::to_json;
use crate::fanout::ToRoom;
use crate::in_doubt::{InDoubt, Place};
use crate::notices::Due;
use crate::shared::Shared;

/// Bytes of one part of a history, as JSON.
const PART_BYTES: usize = 1 << 20;

/// For so long a database may still store what the killed process had sent to it, and more: a
/// statement takes a part of a second.
const IN_DOUBT: Duration = Duration::from_secs(60);

/// When a store is asked again that did not answer.
const AGAIN: Duration = Duration::from_millis(500);

/// Tells the rooms that the journal knows of what is in the store after the last message that
/// was told there. To who comes back these are messages like any other.
pub(crate) async fn tell(shared: Arc<Shared>) {
    let Some(recovery) = &shared.fanout.recovery else {
        return;
    };
    let in_doubt = &recovery.in_doubt;
    let over = tokio::time::sleep(IN_DOUBT);
    tokio::pin!(over);
    loop {
        while let Some(place) = in_doubt.wanted() {
            if let Err(error) = tell_room(&shared, in_doubt, &place).await {
                tracing::error!(%error, "messages that nobody was told of cannot be read yet");
                in_doubt.give_back(&place);
                tokio::time::sleep(AGAIN).await;
            }
        }
        tokio::select! {
            () = in_doubt.wake.notified() => {}
            () = &mut over => break,
        }
    }
    in_doubt.end();
}

/// How often it is looked whether rooms are owed something, and nodes are gone.
const LOOK: Duration = Duration::from_secs(1);

/// After so many questions in one round that the store does not answer, it is left alone.
const MAX_FAILED: u32 = 3;

/// In how many of these rounds rooms are forgotten that are not here any more.
const FORGET: u32 = 60;

/// The job of whoever tells what a node has stored and told nobody: one node has it at a time, so
/// that nothing is told twice. And for how long, milliseconds: what is told is heard by then.
const JOB: &str = "tell";
const JOB_MS: u64 = 30_000;

/// Tells rooms here of messages that another node has stored, and was killed before it told
/// anybody: found by a hole in the offsets, by a message that comes again, and by a look at all
/// rooms when a node has gone or this one begins. Ends only where nodes have no store in common.
pub(crate) async fn tell_owed(shared: Arc<Shared>) {
    let fanout = &shared.fanout;
    if !fanout.owed.is_on() {
        return;
    }
    let (mut others, mut rounds) = (None::<BTreeSet<u32>>, 0u32);
    loop {
        if let Some((tags, _)) = fanout.backplane.others().await {
            let tags: BTreeSet<u32> = tags.into_iter().collect();
            if others.is_none_or(|before| !before.is_subset(&tags)) {
                fanout.owed.doubt(fanout.clock.now());
            }
            others = Some(tags);
        }
        let mut failed = 0;
        for place in fanout.owed.due(fanout.clock.now()) {
            if let Err(error) = look_at(&shared, &place).await {
                tracing::warn!(%error, "what a room is owed cannot be read yet");
                fanout.owed.ask_later(&place, fanout.clock.now());
                failed += 1;
            }
            if failed == MAX_FAILED {
                break;
            }
        }
        rounds += 1;
        if rounds.is_multiple_of(FORGET) {
            fanout.forget_owed();
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Looks at what the store has of a room, and tells what it has been owed for long enough.
async fn look_at(shared: &Arc<Shared>, place: &Place) -> Result<(), StoreError> {
    let (tenant, name) = place;
    let fanout = &shared.fanout;
    let Some(id) = rooms::conversation_of(name).filter(|_| fanout.is_owed(place)) else {
        return Ok(());
    };
    let (from, limit) = fanout.owed.from(place);
    let part = shared.store.history(HistoryQuery {
        tenant: tenant.clone(),
        channel: Channel::Conversation(id.into()),
        from,
        limit,
        bytes: PART_BYTES,
    });
    let part = part.await?;
    let messages = fanout.owed.owed(place, (from, &part), fanout.clock.now());
    if messages.is_empty() {
        return Ok(());
    }
    let now = shared.unix_millis();
    // Two processes may have one name.
    let owner = format!("{}-{:08x}", shared.node_id, fanout.run);
    let taken = shared.store.take_job(JOB, &owner, now, now + JOB_MS);
    if !taken.await?.1 {
        // What the one tells that has it is heard here, or owed again.
        return Ok(());
    }
    let everywhere: Vec<_> = fanout.namespaces.iter().map(|(id, _)| id).collect();
    for message in &messages {
        // While the job was asked for, its node may have come to it.
        let is_told =
            !fanout.is_owed(place) || fanout.owed.is_told(|| place.clone(), message.offset);
        let Some(json) = to_json(message).ok().filter(|_| !is_told) else {
            continue;
        };
        say(shared, (&everywhere[..], place), &json);
        tracing::info!(
            id = message.id,
            "a message is told that its node has told nobody"
        );
        let to = (&everywhere[..], tenant);
        notify(shared, to, id, (message, &json)).await;
    }
    match fanout.common() {
        Some((_, common)) => {
            if let Some(back) = common.back(common.last_said()) {
                back.await;
            }
        }
        // The other nodes have heard it by then, and tell nothing of it.
        None => tokio::time::sleep(LOOK).await,
    }
    shared.store.end_job(JOB, None).await
}

/// Tells a room of a message, in these namespaces.
fn say(shared: &Shared, (namespaces, place): (&[NamespaceId], &Place), json: &str) {
    let (tenant, name) = place;
    for &namespace in namespaces {
        let to = ToRoom {
            namespace,
            tenant: tenant.as_deref(),
            room: name,
            key: None,
            skip: None,
        };
        let new = Message::new("message:new", json);
        drop(shared.fanout.publish_to_room(&to, new));
    }
}

/// Tells a room of all that is there.
async fn tell_room(
    shared: &Arc<Shared>,
    in_doubt: &InDoubt,
    place: &Place,
) -> Result<(), StoreError> {
    let (tenant, name) = place;
    let channel = match rooms::conversation_of(name) {
        Some(id) => Channel::Conversation(id.into()),
        None => Channel::Room(name.to_string()),
    };
    // As when the message is stored.
    let everywhere: Vec<_> = shared.fanout.namespaces.iter().map(|(id, _)| id).collect();
    loop {
        let part = shared.store.history(HistoryQuery {
            tenant: tenant.clone(),
            channel: channel.clone(),
            from: Start::After(in_doubt.take_up(place)),
            limit: MAX_PART,
            bytes: PART_BYTES,
        });
        let part = part.await?;
        if in_doubt.is_another(place, part.head) {
            continue;
        }
        if part.messages.is_empty() {
            return Ok(());
        }
        for message in &part.messages {
            let Ok(json) = to_json(message) else {
                continue;
            };
            let tell_in = |namespaces: &[NamespaceId]| say(shared, (namespaces, place), &json);
            let Channel::Conversation(conversation) = &channel else {
                in_doubt.fill(place, message.offset, tell_in);
                continue;
            };
            let is_anothers = in_doubt.fill(place, message.offset, |_| tell_in(&everywhere));
            if is_anothers {
                notify(
                    shared,
                    (&everywhere[..], tenant),
                    conversation,
                    (message, &json),
                )
                .await;
            }
        }
    }
}

/// Tells members who are not in the room, as when the message is stored.
async fn notify(
    shared: &Shared,
    (namespaces, tenant): (&[NamespaceId], &Option<Arc<str>>),
    conversation_id: &str,
    (message, json): (&StoredMessage, &str),
) {
    let due = Due::new(tenant.clone(), conversation_id, (message, json));
    let notification = due.message.clone();
    let told = shared.notify(namespaces, conversation_id, &due.speaker, notification);
    if let Err(error) = told.await {
        tracing::warn!(%error, "a conversation's members are told later");
        shared.notices.put(due);
    }
}

/// Of so many conversations members are told at once: a store answers several questions at a time.
const AT_ONCE: usize = 16;

/// Tells members who are not in the room of what whoever stored it had no time to tell, or could
/// not. Ends when it is aborted.
pub(crate) async fn tell_members(shared: Arc<Shared>) {
    let mut telling = JoinSet::new();
    loop {
        if telling.len() >= AT_ONCE {
            telling.join_next().await;
        }
        // Those that have ended.
        while telling.try_join_next().is_some() {}
        let due = shared.notices.next().await;
        telling.spawn(tell_others(shared.clone(), due));
    }
}

/// Tells one of them, or leaves it for later.
async fn tell_others(shared: Arc<Shared>, due: Due) {
    match shared.notify_of(&due).await {
        Ok(()) => shared.notices.sent(&due),
        Err(error) => {
            tracing::warn!(%error, "a conversation's members cannot be told yet");
            tokio::time::sleep(AGAIN).await;
            shared.notices.give_back(due);
        }
    }
}
