//! What was lost on its way from other nodes: who is told, and begins afresh.

use std::sync::Arc;

use heartline_core::backplane::Missed;
use heartline_core::line::shelf::ScopeRef;
use heartline_core::rooms::{Gap, PRIVATE, Room, RoomRef};

use super::Fanout;
use crate::op::{LineOp, Op};
use crate::owed;

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
            Missed::User { tenant, user } => {
                let recovery = self.recovery.as_ref();
                // What goes by the line of all nodes is not lost unnoticed.
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
                    self.post(to.0.conn.shard, Op::Line(LineOp::UserGap { to: Some(to) }));
                }
            }
            Missed::Users => {
                self.lose_all();
                let by_line = self.common().map(|(recovery, _)| recovery);
                let all = format!("{PRIVATE}*");
                // What goes by the line of all nodes is not lost unnoticed.
                if by_line.is_none_or(|recovery| !recovery.keeps(&all)) {
                    self.post_to_all(|| Op::Line(LineOp::UserGap { to: None }));
                }
            }
            Missed::Anybody => {
                self.lose_all();
                self.rooms.all().iter().for_each(|room| self.tell_gap(room));
                self.post_to_all(|| Op::Line(LineOp::UserGap { to: None }));
            }
        }
    }

    /// Nobody knows whose it was: nobody who comes back from before now has all.
    fn lose_all(&self) {
        if let Some(recovery) = &self.recovery {
            recovery.lose_all();
        }
    }

    /// Members of a room are told that something was lost: they load what there is.
    pub(crate) fn note_lost(&self, room: &Room) {
        let at = self.clock.unix_millis(self.clock.now());
        self.owed.was_lost(|| owed::place(&room.key), at);
    }

    fn tell_gap(&self, room: &Arc<Room>) {
        self.note_lost(room);
        if self.common().is_some() && room.is_kept() {
            return room.doubts();
        }
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
