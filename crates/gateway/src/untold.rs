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

/// Tells rooms of messages that nobody was told of, as long as the node lives: first those of an
/// earlier process, which a node alone may know of, then those that it finds out to be missing.
pub(crate) async fn run(shared: Arc<Shared>) {
    let fanout = &shared.fanout;
    if fanout.backplane.tag().is_none() && fanout.common().is_none() {
        tell_left_behind(&shared).await;
    }
    tell_owed(&shared).await;
}

/// Tells the rooms that the journal knows of what is in the store after the last message that
/// was told there. To who comes back these are messages like any other.
async fn tell_left_behind(shared: &Arc<Shared>) {
    let Some(recovery) = &shared.fanout.recovery else {
        return;
    };
    let in_doubt = &recovery.in_doubt;
    let over = tokio::time::sleep(IN_DOUBT);
    tokio::pin!(over);
    loop {
        while let Some(place) = in_doubt.wanted() {
            if let Err(error) = tell_room(shared, in_doubt, &place).await {
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

/// Rooms that are read at once, and that are told under one taking of the job.
const READS: usize = 8;
const ROOMS: usize = 256;

/// The job of whoever tells what a node has stored and told nobody: one node has it at a time, so
/// that nothing is told twice. And for how long, milliseconds: what is told is heard by then.
const JOB: &str = "tell";
const JOB_MS: u64 = 30_000;

/// For so long is told under one taking of it; what is left is owed anew.
const TELLING: Duration = Duration::from_secs(10);

/// For so long what goes by no line may be on its way to other nodes: more than it waits for its
/// turn.
const ON_ITS_WAY: Duration = Duration::from_secs(3);

/// A room, and what it is owed.
type OwedTo = (Place, Vec<StoredMessage>);

/// Tells rooms here of messages that were stored and told nobody: another node was killed in
/// between, or a database has stored what it had been given up for. Found by a hole in the
/// offsets, by a message that comes again, and by a look at all rooms when a node has gone or this
/// one begins. Ends only where the store is this process' own.
async fn tell_owed(shared: &Arc<Shared>) {
    let fanout = &shared.fanout;
    if !fanout.owed.is_on() {
        return;
    }
    let mut others = None::<BTreeSet<u32>>;
    loop {
        if let Some((tags, _)) = fanout.backplane.others().await {
            let tags: BTreeSet<u32> = tags.into_iter().collect();
            if others.is_none_or(|before| !before.is_subset(&tags)) {
                fanout.owed.doubt(fanout.clock.now());
            }
            others = Some(tags);
        }
        // What others told while they cannot be heard is told as lost when they can.
        let status = fanout.backplane.status();
        if !status.is_some_and(|status| status.unreachable) {
            tell_due(shared).await;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Looks at the rooms of which it is time, and tells what they have been owed for long enough.
async fn tell_due(shared: &Arc<Shared>) {
    let fanout = &shared.fanout;
    let mut failed = 0;
    for places in fanout.owed.due(fanout.clock.now()).chunks(ROOMS) {
        let owed = read_rooms(shared, places, &mut failed).await;
        if !owed.is_empty()
            && let Err(error) = tell_rooms(shared, &owed).await
        {
            tracing::warn!(%error, "what rooms are owed cannot be told yet");
            failed += 1;
        }
        if failed >= MAX_FAILED {
            break;
        }
    }
}

/// What the store has of rooms that they have been owed for long enough. Those of which it does not
/// answer are looked at later.
async fn read_rooms(shared: &Arc<Shared>, places: &[Place], failed: &mut u32) -> Vec<OwedTo> {
    let fanout = &shared.fanout;
    let (mut places, mut owed) = (places.iter(), Vec::new());
    let mut reading = JoinSet::new();
    loop {
        while reading.len() < READS
            && *failed < MAX_FAILED
            && let Some(place) = places.next()
        {
            let (shared, place) = (shared.clone(), place.clone());
            reading.spawn(async move {
                let owed = read_room(&shared, &place).await;
                (place, owed)
            });
        }
        match reading.join_next().await {
            None => return owed,
            Some(Ok((place, Ok(messages)))) if !messages.is_empty() => owed.push((place, messages)),
            Some(Ok((_, Ok(_)))) => {}
            Some(Ok((place, Err(error)))) => {
                tracing::warn!(%error, "what a room is owed cannot be read yet");
                fanout.owed.ask_later(&place, fanout.clock.now());
                *failed += 1;
            }
            // It is looked at in the next round.
            Some(Err(_)) => *failed += 1,
        }
    }
}

async fn read_room(shared: &Shared, place: &Place) -> Result<Vec<StoredMessage>, StoreError> {
    let (tenant, name) = place;
    let fanout = &shared.fanout;
    let Some(id) = rooms::conversation_of(name).filter(|_| fanout.has_room(place)) else {
        return Ok(Vec::new());
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
    Ok(fanout.owed.owed(place, (from, &part), fanout.clock.now()))
}

/// Tells rooms what they are owed, if no other node does.
async fn tell_rooms(shared: &Shared, owed: &[OwedTo]) -> Result<(), StoreError> {
    let fanout = &shared.fanout;
    let now = shared.unix_millis();
    // Two processes may have one name.
    let owner = format!("{}-{:08x}", shared.node_id, fanout.run);
    let taken = shared.store.take_job(JOB, &owner, now, now + JOB_MS);
    if !taken.await?.1 {
        // What the one tells that has it is heard here, or owed again.
        return Ok(());
    }
    let until = fanout.clock.now() + TELLING;
    'telling: for (place, messages) in owed {
        for message in messages {
            if fanout.clock.now() >= until {
                break 'telling;
            }
            tell_message(shared, place, message).await;
        }
    }
    // The other nodes have heard it by then, and tell nothing of it.
    let are_by_line = (owed.iter()).all(|((_, name), _)| fanout.comes_by_line(name));
    match fanout.common() {
        Some((_, common)) if are_by_line => {
            if let Some(back) = common.back(common.last_said()) {
                back.await;
            }
        }
        _ => tokio::time::sleep(ON_ITS_WAY).await,
    }
    shared.store.end_job(JOB, &owner, None).await
}

/// Tells a room, and members who are not in it, of a message that they are owed.
async fn tell_message(shared: &Shared, place: &Place, message: &StoredMessage) {
    let (tenant, name) = place;
    let fanout = &shared.fanout;
    // While the job was asked for, its node may have come to it.
    let is_told = !fanout.has_room(place) || fanout.owed.is_told(|| place.clone(), message.offset);
    let (Some(id), Ok(json), false) = (rooms::conversation_of(name), to_json(message), is_told)
    else {
        return;
    };
    let everywhere: Vec<_> = fanout.namespaces.iter().map(|(id, _)| id).collect();
    say(shared, (&everywhere[..], place), &json);
    tracing::info!(
        id = message.id,
        "a message is told that its node has told nobody"
    );
    let to = (&everywhere[..], tenant);
    notify(shared, to, id, (message, &json)).await;
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
    let mut mine = Mine {
        shared,
        due: Some(due),
    };
    let Some(due) = &mine.due else { return };
    match mine.shared.notify_of(due).await {
        Ok(()) => mine.sent(),
        Err(error) => tracing::warn!(%error, "a conversation's members cannot be told yet"),
    }
}

/// One that is being sent. It is given back after a while if it is dropped before that, for whatever
/// reason: a store may panic, and the others of the conversation wait for this one.
struct Mine {
    shared: Arc<Shared>,
    due: Option<Due>,
}

impl Mine {
    fn sent(&mut self) {
        if let Some(due) = self.due.take() {
            self.shared.notices.sent(&due);
        }
    }
}

impl Drop for Mine {
    fn drop(&mut self) {
        let Some(due) = self.due.take() else { return };
        let shared = self.shared.clone();
        // Without a runtime nobody sends it any more.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                tokio::time::sleep(AGAIN).await;
                shared.notices.give_back(due);
            });
        }
    }
}
