//! What is answered of a user: what the registry knows, and what this node knows itself.

use std::collections::BTreeSet;

use heartline_core::entries::{TypePresence, UserPresence};

use crate::names;
use crate::registry::{Announced, Known, Millis, Seen};

/// What the registry knows of a user, who has this id; `now` is when it was asked.
pub(crate) fn of_user(user: &str, known: &Known, now: Millis) -> UserPresence {
    // Who has come while nobody is announced has the number of their going until then.
    let is_told = known.announced.iter().any(|told| told.online);
    let is_of_going = known.online && !is_told && !known.announced.is_empty();
    UserPresence {
        user_id: user.to_owned(),
        online: known.online,
        devices: count_devices(known.sockets.iter()),
        last_seen_at: if known.online {
            Some(now)
        } else {
            known.last_seen
        },
        rev: known
            .announced
            .iter()
            .map(|told| told.rev)
            .max()
            .unwrap_or(0),
        stale: is_of_going,
        types: (known.announced.iter())
            .map(|told| of_type(known, told, now))
            .collect(),
    }
}

/// What the registry has said of a user, if it has, and what this node knows itself: whoever
/// has a socket here is online, whatever is thought of others.
pub(crate) fn with_own(
    own: UserPresence,
    known: Option<UserPresence>,
    is_trusted: bool,
) -> UserPresence {
    let is_here = own.online;
    // What was known last says nothing of who came since.
    let is_known = known
        .as_ref()
        .is_some_and(|known| is_trusted || !known.stale);
    // This node's own numbers are others.
    let mut found = known.unwrap_or_else(|| UserPresence {
        rev: 0,
        types: Vec::new(),
        stale: true,
        ..own.clone()
    });
    for here in own.types.iter().filter(|known| known.is_there) {
        let mut types = found.types.iter_mut();
        match types.find(|known| known.user_type == here.user_type) {
            Some(known) => {
                known.is_there = true;
                known.devices = known.devices.max(here.devices);
                known.last_seen_at = here.last_seen_at;
            }
            None => found.types.push(TypePresence {
                rev: 0,
                online: here.online && !is_known,
                ..here.clone()
            }),
        }
    }
    if is_here && !found.online {
        // The registry's number is that of something else.
        (found.online, found.stale) = (true, true);
    }
    if is_here {
        found.devices = found.devices.max(own.devices);
        found.last_seen_at = found.last_seen_at.max(own.last_seen_at);
    }
    found.stale |= !is_trusted;
    found
}

/// What is known of a user of one type.
fn of_type(known: &Known, told: &Announced, now: Millis) -> TypePresence {
    let sockets = known.sockets.iter().filter(|one| one.kind == told.kind);
    let is_there = told.lingers || sockets.clone().next().is_some();
    TypePresence {
        user_type: names::kind(&told.kind),
        online: told.online,
        rev: told.rev,
        is_there,
        devices: count_devices(sockets),
        last_seen_at: if is_there { Some(now) } else { told.last_seen },
    }
}

/// On how many devices some sockets are: those without a device id are their own.
fn count_devices<'a>(sockets: impl Iterator<Item = &'a Seen> + Clone) -> usize {
    let named = sockets.clone().map(|socket| &*socket.device);
    let named: BTreeSet<&str> = named.filter(|device| !device.is_empty()).collect();
    named.len() + sockets.filter(|socket| socket.device.is_empty()).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn presence(online: bool, rev: u64) -> UserPresence {
        UserPresence {
            user_id: "ann".into(),
            online,
            devices: usize::from(online),
            last_seen_at: Some(7),
            rev,
            stale: false,
            types: vec![TypePresence {
                user_type: None,
                online,
                rev,
                ..TypePresence::default()
            }],
        }
    }

    #[test]
    fn who_is_back_and_not_announced_yet_is_online_under_a_number_that_is_in_doubt() {
        let told = |online, rev| Announced {
            kind: "".into(),
            online,
            rev,
            last_seen: None,
            lingers: false,
        };
        let of = |announced: Vec<_>| {
            let known = Known {
                online: true,
                announced,
                ..Known::default()
            };
            let found = of_user("ann", &known, 1);
            (found.online, found.rev, found.stale)
        };
        assert_eq!(of(vec![told(false, 9)]), (true, 9, true));
        assert_eq!(of(vec![told(true, 10)]), (true, 10, false));
        assert_eq!(of(vec![told(false, 11), told(true, 10)]), (true, 11, false));
        assert_eq!(of(vec![]), (true, 0, false));
    }

    #[test]
    fn a_user_of_one_type_is_told_from_those_of_others() {
        let told = |kind: &str, online, last_seen, lingers| Announced {
            kind: format!("={kind}").into(),
            online,
            rev: 3,
            last_seen,
            lingers,
        };
        let seen = |kind: &str, device: &str| Seen {
            socket: "s".into(),
            process: "p".into(),
            namespace: "/".into(),
            device: device.into(),
            kind: format!("={kind}").into(),
        };
        let known = Known {
            online: true,
            sockets: vec![seen("driver", "a"), seen("driver", "a"), seen("driver", "")],
            last_seen: Some(30),
            announced: vec![
                told("driver", true, Some(5), false),
                told("rider", false, Some(20), false),
                told("guard", true, Some(30), true),
            ],
            devices_from: None,
        };
        let of = |own: UserPresence, kind| {
            let found = of_user("ann", &known, 90);
            let found = with_own(own, Some(found), true).of_type(kind);
            (found.online, found.devices, found.last_seen_at)
        };
        let nobody = || presence(false, 0);
        assert_eq!(of(nobody(), "driver"), (true, 2, Some(90)));
        assert_eq!(of(nobody(), "rider"), (false, 0, Some(20)));
        assert_eq!(of(nobody(), "guard"), (true, 0, Some(90)));
        assert_eq!(of(nobody(), "none"), (false, 0, None));
        // Whoever has a socket here is online, of the type that it has.
        let here = |kind: &str| UserPresence {
            types: vec![TypePresence {
                user_type: Some(kind.into()),
                online: true,
                is_there: true,
                devices: 1,
                last_seen_at: Some(91),
                ..TypePresence::default()
            }],
            ..presence(true, 3)
        };
        assert_eq!(of(here("rider"), "rider"), (true, 1, Some(91)));
        assert_eq!(of(here("none"), "none"), (true, 1, Some(91)));
        assert_eq!(of(here("rider"), "none"), (false, 0, None));
    }

    #[test]
    fn who_has_a_socket_here_is_online_and_if_the_registry_knows_none_that_is_in_doubt() {
        let found = with_own(presence(true, 3), Some(presence(false, 9)), true);
        assert!(found.online && found.stale, "rev 9 is that of their going");
        assert_eq!((found.devices, found.rev), (1, 9));
        let found = with_own(presence(true, 3), Some(presence(true, 9)), true);
        assert!(found.online && !found.stale);
        let found = with_own(presence(false, 3), Some(presence(false, 9)), true);
        assert!(!found.online && !found.stale);
        let found = with_own(presence(false, 3), Some(presence(true, 9)), false);
        assert!(found.online && found.stale, "nobody is complete yet");
        let found = with_own(presence(true, 3), None, true);
        assert!(found.online && found.stale && found.rev == 0);
    }
}
