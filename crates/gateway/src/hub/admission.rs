//! Who it is that wants a socket, and whether they are let in: off the shard, which hears of it
//! when all is decided.
//!
//! Should the connection end first, nobody is asked to admit it; should it end in that very
//! moment, or what follows the admission run out of time, the admission is taken back.

use std::sync::{Arc, Weak};

use heartline_core::auth::{AuthError, Credentials, Identity, UserKey};
use heartline_core::backplane::line::Unclaimed;
use heartline_core::policy::AuthMode;
use heartline_core::presence::{Admitted, DeviceLimitReached, Newcomer, SocketAddress};

use super::resume::fetching::{Earlier, claim, gather, know_members, last_place, take_over};
use crate::handler::{Arrival, Handlers};
use crate::op::{Connecting, Refusal};
use crate::recovery::Turn;
use crate::shared::Shared;

/// The socket that is to be, and what its client has already.
pub(super) struct Comer {
    pub(super) socket: SocketAddress,
    pub(super) earlier: Option<Earlier>,
    /// The same connection's socket in this namespace, and its user: the new one takes its place.
    pub(super) before: Option<(SocketAddress, Arc<UserKey>)>,
}

/// A newcomer that is let in, and of which its shard does not know that: the admission is taken back
/// if it is dropped.
struct LetIn<'a> {
    shared: &'a Shared,
    socket: SocketAddress,
    identity: Arc<Identity>,
    /// `None`: the shard is told.
    admitted: Option<Admitted>,
}

impl LetIn<'_> {
    /// For the shard, which takes it back from here on if it has to.
    fn hand_over(mut self) -> (Arc<Identity>, Admitted) {
        let admitted = self.admitted.take().unwrap_or_default();
        (self.identity.clone(), admitted)
    }
}

impl Drop for LetIn<'_> {
    fn drop(&mut self) {
        if let Some(admitted) = self.admitted.take() {
            take_back(self.shared, self.socket, &self.identity, &admitted);
        }
    }
}

/// Somebody who was let in is not there: the user is not online for it, and who was to go stays.
pub(super) fn take_back(
    shared: &Shared,
    socket: SocketAddress,
    who: &Identity,
    admitted: &Admitted,
) {
    if let Some(user) = &who.user {
        shared.fanout.backplane.withdraw(user, socket, admitted);
    }
}

/// What an authentication came to.
pub(super) struct Authenticated<'a> {
    outcome: Result<LetIn<'a>, Refusal>,
    /// What the newcomer brings of an earlier socket is another user's.
    is_foreign: bool,
    /// Nobody else goes on with that socket meanwhile.
    turn: Option<Turn>,
}

impl Authenticated<'_> {
    /// What the shard of the newcomer is told.
    pub(super) fn told(self, shared: &Shared, socket: SocketAddress) -> Connecting {
        let recovery = shared.fanout.recovery.as_ref();
        Connecting {
            socket,
            outcome: self.outcome.map(LetIn::hand_over),
            begin: recovery.map(|recovery| recovery.line.place(recovery.line.last())),
            is_foreign: self.is_foreign,
            turn: self.turn,
        }
    }
}

/// Verifies credentials and asks the backplane for admission, if the newcomer is still
/// `here` then.
pub(super) async fn authenticate<'a>(
    shared: &'a Shared,
    handlers: &Handlers,
    mode: AuthMode,
    credentials: Credentials,
    comer: Comer,
    here: Weak<()>,
) -> Option<Authenticated<'a>> {
    let identity = match identify(shared, handlers, mode, credentials, &comer).await {
        Ok(identity) => identity,
        Err(refusal) => {
            return Some(Authenticated {
                outcome: Err(refusal),
                is_foreign: false,
                turn: None,
            });
        }
    };
    let Comer {
        socket,
        earlier,
        before,
    } = comer;
    let mut elsewhere = Ok(None);
    let mut turn = None;
    if let Some(earlier) = &earlier {
        let Earlier { name, came_at, .. } = *earlier;
        if let Some(recovery) = &shared.fanout.recovery {
            turn = Some(recovery.turn(name).await);
        }
        let stays = take_over(shared, name, identity.user.clone(), came_at).await;
        elsewhere = match stays {
            true => Err(Unclaimed::Unknown),
            false => claim(shared, earlier, &identity).await,
        };
    }
    let is_foreign = elsewhere == Err(Unclaimed::Foreign);
    let instead_of = earlier.as_ref().zip(elsewhere.as_ref().ok());
    let last = instead_of.and_then(|(earlier, record)| last_place(shared, earlier, record));
    let known_as = instead_of.map(|(earlier, _)| earlier.name);
    // The connection's own socket was let in beside what its client had before.
    let instead_of = before.map(|(own, _)| own).or(last);
    let outcome = admit(shared, identity, (socket, instead_of, known_as), here).await?;
    if let Ok(LetIn { identity, .. }) = &outcome {
        if let (Some(user), Some((_, common))) = (&identity.user, shared.fanout.common())
            && let Some(attended) = common.attend(user)
        {
            attended.await;
        }
        if let Some(earlier) = earlier {
            if let Ok(elsewhere) = elsewhere {
                gather(shared, &earlier, identity, elsewhere).await;
            }
            know_members(shared, identity, &earlier).await;
        }
    }
    Some(Authenticated {
        outcome,
        is_foreign,
        turn,
    })
}

/// Asks the backplane for admission; `None`: the newcomer has gone.
async fn admit<'a>(
    shared: &'a Shared,
    identity: Arc<Identity>,
    (socket, instead_of, known_as): (SocketAddress, Option<SocketAddress>, Option<SocketAddress>),
    here: Weak<()>,
) -> Option<Result<LetIn<'a>, Refusal>> {
    let let_in = |identity, admitted| LetIn {
        shared,
        socket,
        identity,
        admitted: Some(admitted),
    };
    let Some(user) = &identity.user else {
        return Some(Ok(let_in(identity, Admitted::default())));
    };
    let config = &shared.fanout.namespaces.get(socket.namespace()).config;
    let newcomer = Newcomer {
        user: user.clone(),
        socket,
        device_id: identity.device_id.clone(),
        policy: config.devices,
        max_sockets: config.max_sockets,
        instead_of,
        known_as,
    };
    // Nobody loses a place to who has gone.
    if here.strong_count() == 0 {
        return None;
    }
    Some(match shared.fanout.backplane.connect(newcomer).await {
        Ok(admitted) => Ok(let_in(identity, admitted)),
        Err(DeviceLimitReached { retry_after }) => Err(Refusal::DeviceLimit(retry_after)),
    })
}

/// Finds out who it is, and whether the app lets them in.
async fn identify(
    shared: &Shared,
    handlers: &Handlers,
    mode: AuthMode,
    credentials: Credentials,
    comer: &Comer,
) -> Result<Arc<Identity>, Refusal> {
    let arrival = credentials.clone();
    let has_token = credentials.token.is_some();
    let verified = match mode {
        AuthMode::Off => Ok(None),
        _ if has_token || shared.authenticator.wants_handshake() => {
            shared.authenticate(credentials).await.map(Some)
        }
        _ => Err(AuthError::Required),
    };
    let identity = match verified {
        Ok(Some(identity)) => Arc::new(identity),
        Ok(None) => shared.anonymous.clone(),
        Err(AuthError::Required) if mode == AuthMode::Optional && !has_token => {
            shared.anonymous.clone()
        }
        Err(error) => return Err(Refusal::Auth(error)),
    };
    if let Some((_, user)) = &comer.before
        && identity.user.as_ref() != Some(user)
    {
        return Err(Refusal::OtherUser);
    }
    for decide in handlers.admissions(comer.socket.namespace()) {
        let arrival = Arrival {
            identity: identity.clone(),
            namespace: arrival.namespace.clone(),
            payload: arrival.payload.clone(),
            remote_addr: arrival.remote_addr,
            handshake: arrival.handshake.clone().unwrap_or_default(),
        };
        decide(arrival).await.map_err(Refusal::App)?;
    }
    Ok(identity)
}
