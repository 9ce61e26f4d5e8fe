//! What a client brings of an earlier connection.

use heartline_core::line::Place;
use heartline_core::namespaces::NamespaceId;
use heartline_core::presence::SocketAddress;
use heartline_wire::time::Micros;
use heartline_wire::{json, live};

use crate::hub::Hub;
use crate::metrics::Resume;
use crate::recovery::{Recovery, Unnamed};

/// What a client brings of an earlier connection.
#[derive(Debug)]
pub(crate) struct Ticket {
    /// The socket, and the place in the line at which it began; or why it is not looked for.
    pub(super) session: Result<(SocketAddress, Place), Resume>,
    pub(super) since: Since,
    /// When it has come back, and how many times sessions had been ended by then.
    pub(super) came_at: Micros,
    pub(super) ends: u64,
    /// Live topics, each with the epoch and offset of the last event that came.
    pub(crate) topics: Vec<(Box<str>, Option<(Box<str>, u64)>)>,
}

/// What a client has received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Since {
    /// Everything up to this place.
    Place(Place),
    /// It does not say: Socket.IO's clients have received nothing, and of live clients the
    /// topics tell.
    Unsaid,
    /// Something that is no place.
    Garbled,
}

impl Since {
    fn of(text: Option<&str>) -> Since {
        match text {
            None => Since::Unsaid,
            Some(text) => Place::parse(text).map_or(Since::Garbled, Since::Place),
        }
    }
}

impl Ticket {
    /// The place at which it began.
    pub(in crate::hub) fn begin(&self) -> Option<Place> {
        self.session.ok().map(|(_, begin)| begin)
    }

    /// It is brought now, when sessions have been ended so many times.
    pub(in crate::hub) fn comes(&mut self, now: Micros, ends: u64) {
        (self.came_at, self.ends) = (now, ends);
    }

    /// Is not looked at, as there were too many that were of no use.
    pub(in crate::hub) fn is_refused(&mut self) {
        self.session = Err(Resume::Limited);
    }

    /// The socket was another user's, as another node knows.
    pub(in crate::hub) fn is_anothers(&mut self) {
        self.session = Err(Resume::Foreign);
    }

    /// The place up to which it has received everything, or before.
    pub(in crate::hub) fn place(&self) -> u64 {
        let begin = self.begin().map_or(0, |begin| begin.id);
        match self.since {
            Since::Place(place) => place.id.max(begin),
            Since::Unsaid | Since::Garbled => begin,
        }
    }

    /// The socket that the client had.
    pub(in crate::hub) fn name(&self) -> Option<SocketAddress> {
        self.session.ok().map(|(name, _)| name)
    }
}

impl Hub {
    /// What the payload of a CONNECT brings: `pid` and `offset`.
    /// Source: socket.io-client, `Socket._sendConnectPacket`.
    pub(in crate::hub) fn ticket(&self, payload: &str, namespace: NamespaceId) -> Option<Ticket> {
        let recovery = self.recovery()?;
        let text = |name| json::field(payload, name).and_then(json::unquote);
        let session = named(recovery, &text("pid")?, namespace);
        // msgpack writes what is `undefined` as nil, and JSON what is none as `null`.
        let offset = json::field(payload, "offset").filter(|offset| offset.trim() != "null");
        let since = match offset {
            None => Since::Unsaid,
            Some(offset) => match json::unquote(offset) {
                Some(offset) => Since::of(Some(&offset)),
                None => Since::Garbled,
            },
        };
        Some(Ticket {
            session,
            since,
            came_at: Micros::ZERO,
            ends: 0,
            topics: Vec::new(),
        })
    }

    /// What an `auth` frame brings.
    pub(in crate::hub) fn live_ticket(&self, resume: &live::Resume<'_>) -> Ticket {
        let session = self.recovery().ok_or(Resume::Unknown);
        let session =
            session.and_then(|recovery| named(recovery, &resume.token, NamespaceId::ROOT));
        let topics = resume
            .topics
            .iter()
            .take(self.shared.config.max_rooms_per_socket);
        let topics = topics.map(|(topic, at)| {
            let at = at.as_ref();
            let at = at.map(|(epoch, offset)| ((&**epoch).into(), *offset));
            ((&**topic).into(), at)
        });
        Ticket {
            session,
            since: Since::of(resume.place.as_deref()),
            came_at: Micros::ZERO,
            ends: 0,
            topics: topics.collect(),
        }
    }
}

/// The socket that a token names in a namespace, and the place at which it began.
fn named(
    recovery: &Recovery,
    token: &str,
    namespace: NamespaceId,
) -> Result<(SocketAddress, Place), Resume> {
    let (name, begin) = recovery.named(token).map_err(|why| match why {
        Unnamed::Forged => Resume::BadToken,
        Unnamed::Unsure => Resume::Unknown,
    })?;
    if name.namespace() != namespace {
        return Err(Resume::BadToken);
    }
    Ok((name, begin))
}
