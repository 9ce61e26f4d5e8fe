//! What has to be done now and then, whatever happens: sweeps, graces that
//! end, limiters that forget.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use heartline_core::store::StoreError;
use heartline_wire::id::Slot;

use crate::op::{FIRST_GUEST, Query, SweepPlace};
use crate::recovery::TRIM_INTERVAL;
use crate::shared::Shared;

/// How often graces are looked at while any runs, and limiters otherwise.
const GRACE_INTERVAL: Duration = Duration::from_millis(100);
const LIMITS_INTERVAL: Duration = Duration::from_secs(5);
/// How often the system's clock is looked at, whether it was set.
const CLOCK_INTERVAL: Duration = Duration::from_secs(1);
/// How often at most it is looked at whether who is in a conversation's room is still a member, when
/// the second look comes, and when a store is asked again that did not say so.
const GUESTS_INTERVAL: Duration = Duration::from_secs(5);
/// In how many of its rounds the other nodes are told again of whom this one has sockets.
const ATTEND: u32 = 360;

/// Runs until it is aborted.
pub(crate) async fn run(shared: Arc<Shared>) {
    let shared_in_graces = shared.clone();
    let graces = async move {
        // Without a grace there are still those who were told to come back.
        let grace = shared_in_graces.config.offline_grace;
        let interval = match grace.is_zero() {
            true => GRACE_INTERVAL,
            false => GRACE_INTERVAL.min(grace),
        };
        loop {
            let now = shared_in_graces.clock.now();
            let at = shared_in_graces.clock.steady_millis(now);
            shared_in_graces.fanout.backplane.local().expire(now, at);
            tokio::time::sleep(interval).await;
        }
    };
    let clock = follow_clock(shared.clone());
    let guests = follow_losses(shared.clone());
    let shared_in_limits = shared.clone();
    let limits = async move {
        loop {
            tokio::time::sleep(LIMITS_INTERVAL).await;
            let now = shared_in_limits.clock.now();
            shared_in_limits.limits.forget_idle(now);
        }
    };
    let shared_in_trims = shared.clone();
    let trims = async move {
        let Some(recovery) = &shared_in_trims.fanout.recovery else {
            return;
        };
        let mut rounds = 0u32;
        loop {
            tokio::time::sleep(TRIM_INTERVAL).await;
            let now = shared_in_trims.clock.now();
            recovery.give_up(recovery.sessions.expire(now));
            let fanout = &shared_in_trims.fanout;
            let is_left = |_, tenant: Option<&str>, user: &str| fanout.has_anybody(tenant, user);
            recovery.shelf.trim(now, &recovery.line.bounds, is_left);
            recovery.direct.trim(now, &recovery.line.bounds);
            rounds += 1;
            let common = recovery.common.as_ref();
            if let Some(common) = common.filter(|_| rounds.is_multiple_of(ATTEND)) {
                fanout.backplane.local().each_user(|user| {
                    common.attend(user);
                });
            }
            let rooms = &shared_in_trims.fanout.rooms;
            rooms.trim(now, &recovery.line.bounds);
        }
    };
    let sweeps = async move {
        loop {
            tokio::time::sleep(shared.config.heartbeat.sweep_interval).await;
            let removed = sweep(&shared).await;
            if removed > 0 {
                tracing::info!(removed, "the sweep removed entries");
            }
        }
    };
    tokio::join!(graces, clock, guests, limits, trims, sweeps);
}

/// Takes over what the system's clock says, when that is set.
async fn follow_clock(shared: Arc<Shared>) {
    loop {
        tokio::time::sleep(CLOCK_INTERVAL).await;
        if let Some(before) = shared.clock.follow() {
            let was = before.duration_since(UNIX_EPOCH).unwrap_or_default();
            let (was, now) = (was.as_millis() as u64, shared.unix_millis());
            tracing::warn!(
                was,
                now,
                "the system's clock was set, or the machine has slept"
            );
            clock_was_set(&shared).await;
        }
    }
}

/// Has the tokens of all sockets expire by the clock as it is now, in as many turns of each shard as
/// that takes.
pub(crate) async fn clock_was_set(shared: &Arc<Shared>) {
    for shard in 0..shared.fanout.shard_count() {
        let mut place = Some(Slot(0));
        while let Some(from) = place {
            let asked = shared
                .fanout
                .query(shard, |reply| Query::ClockSet { from, reply });
            // A shard that has stopped has no sockets.
            place = asked.await.flatten();
        }
    }
}

/// Looks at who is in rooms of conversations here when what other nodes have changed may have been
/// lost, until all were looked at.
async fn follow_losses(shared: Arc<Shared>) {
    loop {
        shared.members.loss().await;
        while let Err(error) = look_at_guests(&shared).await {
            tracing::warn!(%error, "it is not known yet who is still in which conversation");
            tokio::time::sleep(GUESTS_INTERVAL).await;
        }
        tokio::time::sleep(GUESTS_INTERVAL).await;
    }
}

/// Looks at who is in rooms of conversations, in as many turns of the shards as that takes. Whoever
/// is no member leaves after a second look: who was put there is written down a moment later.
///
/// # Errors
/// The store does not say who belongs to one.
async fn look_at_guests(shared: &Shared) -> Result<(), StoreError> {
    let mut strangers = Vec::new();
    for shard in 0..shared.fanout.shard_count() {
        let mut place = Some(FIRST_GUEST);
        while let Some(from) = place {
            let asked = shared
                .fanout
                .query(shard, |reply| Query::Guests { from, reply });
            // Nobody is in rooms of a shard that has stopped.
            let (guests, next) = asked.await.unwrap_or_default();
            strangers.extend(shared.members.strangers(&guests).await?);
            place = next;
        }
    }
    if strangers.is_empty() {
        return Ok(());
    }
    tokio::time::sleep(GUESTS_INTERVAL).await;
    shared.members.put_out(&strangers).await
}

/// Sweeps all shards, each in as many turns as that takes; how many entries were removed.
pub(crate) async fn sweep(shared: &Arc<Shared>) -> usize {
    let mut removed = 0;
    for shard in 0..shared.fanout.shard_count() {
        let mut place = Some(SweepPlace::FIRST);
        while let Some(from) = place {
            let asked = shared
                .fanout
                .query(shard, |reply| Query::Sweep { from, reply });
            // A shard that has stopped has nothing to sweep.
            let (some, next) = asked.await.unwrap_or_default();
            removed += some;
            place = next;
        }
    }
    removed
}
