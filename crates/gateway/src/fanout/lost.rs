//! What was lost on its way from other nodes: who is told, and begins afresh.
//!
//! What is kept goes by the line that all nodes share, where there is one, and can be lost only
//! there; all else comes by channels, and can be lost only there. Whoever may have missed something
//! of the one is not told of what was lost of the other.

use std::sync::Arc;

use heartline_core::backplane::Missed;
use heartline_core::line::shelf::ScopeRef;
use heartline_core::rooms::{Gap, PRIVATE, Room, RoomRef};

use super::Fanout;
use crate::op::{Doubtful, LineOp, Op};
use crate::owed;
use crate::recovery::Recovery;

impl Fanout {
    /// Tells those of this node whose publications were lost.
    pub(crate) fn missed(&self, whose: Missed<'_>) {
        match whose {
            Missed::Room {
                namespace,
                tenant,
                room,
            } => {
                let namespace = self.namespaces.find(namespace);
                let room = namespace.and_then(|namespace| {
                    self.rooms.find(&RoomRef {
                        namespace,
                        tenant,
                        name: room,
                    })
                });
                room.iter().for_each(|room| self.tell_gap(room));
            }
            Missed::User { tenant, user } => self.lose_for(tenant, user),
            Missed::Users => {
                self.lose_all();
                self.tell_anybody(Doubtful::Users);
            }
            Missed::Unaddressed => {
                self.lose_all();
                self.tell_anybody(Doubtful::Unaddressed);
            }
            Missed::Anybody => {
                self.lose_all();
                self.rooms.all().iter().for_each(|room| self.tell_gap(room));
                self.tell_anybody(Doubtful::Unaddressed);
            }
            Missed::Foreign => self.tell_anybody(Doubtful::Foreign),
            Missed::Line => {
                for room in self.rooms.all() {
                    if self.comes_by_line(&room.key.name) {
                        room.doubts();
                    }
                }
                self.tell_anybody(Doubtful::Line);
            }
        }
    }

    /// What was said to a user was lost.
    fn lose_for(&self, tenant: Option<&str>, user: &str) {
        if self.comes_by_line(&format!("{PRIVATE}{user}")) {
            return;
        }
        // What goes by the line of all nodes is not lost unnoticed.
        let recovery = self.recovery.as_ref();
        if let Some(recovery) = recovery.filter(|recovery| recovery.common.is_none()) {
            for (namespace, _) in self.namespaces.iter() {
                let scope = ScopeRef {
                    namespace,
                    tenant,
                    user: Some(user),
                };
                recovery.shelf.lose(scope, &recovery.line, self.clock.now());
            }
        }
        for to in self.backplane.local().sockets(tenant, user, None) {
            self.post(to.0.conn.shard, Op::Line(LineOp::UserGap { to }));
        }
    }

    /// Nobody knows whose it was: nobody who comes back from before now has all.
    fn lose_all(&self) {
        if let Some(recovery) = &self.recovery {
            recovery.lose_all();
        }
    }

    fn tell_anybody(&self, lost: Doubtful) {
        self.post_to_all(|| Op::Line(LineOp::AnybodyGap(lost)));
    }

    /// Whether what is said in a room comes by the line that all nodes share.
    pub(crate) fn comes_by_line(&self, room: &str) -> bool {
        let common = self.common();
        common.is_some_and(|(recovery, _)| recovery.keeps(room))
    }

    /// Whether a socket is told for its user's own room that something was lost.
    pub(crate) fn is_told_as_user(&self, lost: Doubtful, room: &str) -> bool {
        let is_by_line = self.comes_by_line(room);
        match lost {
            Doubtful::Users => !is_by_line,
            Doubtful::Unaddressed => !is_by_line || !self.all_comes_by_line(),
            // Everybody else is told so when something of the servers' is lost.
            Doubtful::Foreign => is_by_line && self.all_comes_by_line(),
            // Changes of presence have places in the line, whatever is kept.
            Doubtful::Line => true,
        }
    }

    /// Whether a member of a room that has nothing lost by its own way is told of it: a loss of
    /// what was said to everybody is, as that of the user's own room, or of all rooms of nobody.
    pub(crate) fn is_told_as_member(&self, lost: Doubtful, room: &str, is_nobody: bool) -> bool {
        let is_by_line = self.comes_by_line(room);
        match lost {
            Doubtful::Users => false,
            Doubtful::Unaddressed => is_by_line && is_nobody && !self.all_comes_by_line(),
            Doubtful::Foreign => is_by_line && (!is_nobody || self.all_comes_by_line()),
            Doubtful::Line => !is_by_line && is_nobody,
        }
    }

    fn all_comes_by_line(&self) -> bool {
        let common = self.common().map(|(recovery, _)| recovery);
        common.is_some_and(Recovery::keeps_all)
    }

    /// Members of a room are told that something was lost: they load what there is.
    pub(crate) fn note_lost(&self, room: &Room) {
        let at = self.clock.unix_millis(self.clock.now());
        self.owed.was_lost(|| owed::place(&room.key), at);
    }

    fn tell_gap(&self, room: &Arc<Room>) {
        if self.comes_by_line(&room.key.name) {
            return;
        }
        self.note_lost(room);
        let recovery = self.recovery.as_ref();
        let journal = recovery.and_then(|recovery| recovery.journal.as_ref());
        let note = |gap: Gap| {
            if let Some(journal) = journal {
                journal.gap(room, gap);
            }
        };
        let line = recovery.map(|recovery| &recovery.line);
        self.rooms.begin_epoch(room, line, note, |shard, gap| {
            let room = room.clone();
            self.post(shard as u16, Op::Line(LineOp::Gap { room, gap }));
        });
    }
}
