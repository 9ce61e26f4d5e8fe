use redis::IntoConnectionInfo;
use redis::sentinel::{SentinelClientBuilder, SentinelServerType};

use super::*;

/// So many of them.
fn sentinels(count: usize) -> Sentinels {
    let sentinel = "redis://127.0.0.1:1".into_connection_info().unwrap();
    let kind = SentinelServerType::Master;
    let builder = SentinelClientBuilder::new([sentinel.addr().clone()], "main", kind).unwrap();
    let client = builder.build().unwrap();
    Sentinels::new(client, vec![sentinel.clone(); count], "main", sentinel)
}

fn master(epoch: u64, port: u16) -> Master {
    Master {
        epoch,
        host: "10.0.0.1".into(),
        port,
    }
}

fn port(sentinels: &Sentinels) -> u16 {
    match sentinels.address() {
        Some(ConnectionAddr::Tcp(_, port)) => port,
        other => panic!("no address: {other:?}"),
    }
}

#[test]
fn a_sentinel_that_has_not_heard_of_a_failover_takes_nobody_back_to_the_old_master() {
    let sentinels = sentinels(3);
    let now = Instant::now();
    sentinels.named(0, master(0, 1), now);
    assert_eq!(sentinels.term(), 0, "the first one is no other one");
    sentinels.named(0, master(1, 2), now);
    assert_eq!(sentinels.term(), 1);
    sentinels.named(1, master(0, 1), now);
    sentinels.named(0, master(1, 2), now);
    assert_eq!(sentinels.term(), 1);
    // In the middle of a failover the epoch may come with the old address.
    sentinels.named(0, master(2, 2), now);
    sentinels.named(0, master(2, 3), now);
    assert_eq!(sentinels.term(), 2);
    assert_eq!(port(&sentinels), 3);
}

#[test]
fn the_first_master_that_is_named_is_another_one_only_for_who_was_elsewhere() {
    let now = Instant::now();
    let found = |ports: &[u16]| {
        let sentinels = sentinels(1);
        for port in ports {
            assert!(locked(&sentinels.known).find("10.0.0.1", *port));
        }
        sentinels.named(0, master(0, 1), now);
        assert!(!locked(&sentinels.known).find("10.0.0.1", 2));
        sentinels.term()
    };
    assert_eq!(found(&[]), 0);
    assert_eq!(found(&[1, 1]), 0);
    assert_eq!(found(&[2]), 1);
    assert_eq!(found(&[1, 2]), 1);
    assert_eq!(found(&[2, 1, 1]), 1);
}

#[test]
fn whoever_is_told_of_another_master_is_told_of_its_term() {
    const FAILOVERS: u16 = 20_000;
    let sentinels = sentinels(1);
    let now = Instant::now();
    sentinels.named(0, master(0, 0), now);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for count in 1..=FAILOVERS {
                sentinels.named(0, master(count.into(), count), now);
            }
        });
        while sentinels.term() < FAILOVERS.into() {
            let told = port(&sentinels);
            let term = sentinels.term();
            assert!(term >= told.into(), "{told} in the term {term}");
        }
    });
}

/// Sentinels that name the same every second, from a second on and until another; the first
/// at which something else is believed than before.
fn say(
    sentinels: &Sentinels,
    words: &[(usize, Master)],
    start: Instant,
    seconds: std::ops::Range<u64>,
) -> Option<u64> {
    let before = port(sentinels);
    seconds.into_iter().find(|second| {
        for (index, master) in words {
            let now = start + Duration::from_secs(*second);
            sentinels.named(*index, master.clone(), now);
        }
        port(sentinels) != before
    })
}

#[test]
fn sentinels_that_were_made_to_count_anew_are_believed_without_a_restart() {
    let sentinels = sentinels(3);
    let start = Instant::now();
    sentinels.named(0, master(5, 1), start);
    let anew = [(0, master(0, 2)), (1, master(0, 2))];
    assert_eq!(say(&sentinels, &anew, start, 0..60), Some(10));
    assert_eq!(sentinels.term(), 1);
    // The next failover is known at once.
    let later = start + Duration::from_secs(11);
    sentinels.named(2, master(1, 3), later);
    assert_eq!((port(&sentinels), sentinels.term()), (3, 2));
    // The same where the master stayed, but not the count.
    sentinels.named(0, master(9, 3), later);
    let same = [(1, master(0, 3)), (2, master(0, 3))];
    assert_eq!(say(&sentinels, &same, later, 0..60), None);
    sentinels.named(0, master(1, 4), later + Duration::from_secs(61));
    assert_eq!((port(&sentinels), sentinels.term()), (4, 3));
}

#[test]
fn sentinels_that_are_told_of_another_master_one_by_one_send_nobody_to_and_fro() {
    // Whichever is told first.
    for order in [[0, 1, 2], [1, 2, 0], [2, 0, 1]] {
        let sentinels = sentinels(3);
        let start = Instant::now();
        (0..3).for_each(|index| sentinels.named(index, master(0, 1), start));
        for count in 0..=3 {
            let told = order[..count].iter().map(|index| (*index, master(0, 2)));
            let others = order[count..].iter().map(|index| (*index, master(0, 1)));
            let words: Vec<_> = told.chain(others).collect();
            let from = 60 * count as u64;
            say(&sentinels, &words, start, from..from + 60);
        }
        assert_eq!((port(&sentinels), sentinels.term()), (2, 1));
    }
}

#[test]
fn sentinels_that_are_left_and_were_reset_are_believed_once_the_master_is_gone_with_the_others() {
    let sentinels = sentinels(3);
    let start = Instant::now();
    (0..3).for_each(|index| sentinels.named(index, master(5, 1), start));
    let anew = [(0, master(0, 2))];
    assert_eq!(say(&sentinels, &anew, start, 0..600), None);
    let later = start + Duration::from_secs(600);
    sentinels.note_reached(false, later);
    sentinels.note_reached(false, later + Duration::from_secs(20));
    // Not while another one that is there says what was known.
    let other = [(0, master(0, 2)), (1, master(5, 1))];
    assert_eq!(say(&sentinels, &other, later, 0..60), None);
    // Nor while the master is.
    sentinels.note_reached(true, later);
    assert_eq!(say(&sentinels, &anew, later, 60..120), None);
    let gone = later + Duration::from_secs(120);
    sentinels.note_reached(false, gone);
    assert_eq!(say(&sentinels, &anew, gone, 0..60), Some(30));
    assert_eq!((port(&sentinels), sentinels.term()), (2, 1));
    // A failover that it hears of later is known at once.
    sentinels.named(0, master(1, 3), gone + Duration::from_secs(31));
    assert_eq!((port(&sentinels), sentinels.term()), (3, 2));
}

fn told(id: &str, port: u16) -> Told {
    Told {
        id: id.into(),
        host: "10.0.0.9".into(),
        port,
    }
}

#[test]
fn sentinels_that_others_tell_of_are_listened_to_once_and_within_bounds() {
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let mut known = Named::new(PACE);
    let (all, of_url) = (2, |place| (place, 2));
    let ports = |known: &Named| -> Vec<u16> {
        let told = known.told.iter().flatten();
        told.map(|(told, _)| told.port).collect()
    };
    known.believes(of_url(0), &master(1, 1), start);
    assert!(known.is_at(of_url(0), "a", start));
    // One that the URL names is told of, before it has said who it is.
    let others = vec![told("a", 1), told("b", 2), told("c", 3)];
    assert!(known.learn(all, others.clone(), start));
    assert!(!known.learn(all, others.clone(), at(1)));
    assert_eq!(ports(&known), [2, 3]);
    assert!(known.is_at((2, 2), "b", at(1)));
    known.believes((2, 2), &master(1, 1), at(1));
    assert_eq!(known.electorate(all, at(1)), 3);
    known.believes(of_url(1), &master(1, 1), at(2));
    assert!(known.is_at(of_url(1), "b", at(2)));
    assert_eq!((ports(&known), known.electorate(all, at(2))), (vec![3], 2));
    assert!(!known.is_at((2, 2), "b", at(2)));
    // Another one has come to be where one was.
    assert!(!known.is_at((3, 2), "x", at(3)) && ports(&known).is_empty());
    // Of too many the first are listened to, until they are gone.
    let many = |from: u16| (from..from + 9).map(|port| told(&port.to_string(), port));
    assert!(known.learn(all, many(10).collect(), at(4)));
    assert!(!known.learn(all, many(20).collect(), at(5)));
    assert_eq!(ports(&known), (10..18).collect::<Vec<_>>());
    known.believes((4, 2), &master(1, 1), at(20));
    assert!(known.learn(all, many(20).collect(), at(40)));
    assert_eq!(ports(&known), [20, 21, 12, 22, 23, 24, 25, 26]);
}

#[test]
fn a_sentinel_that_does_not_answer_others_is_not_told_of() {
    let said = |flags: &str| {
        let fields = [
            ("runid", "a"),
            ("ip", "10.0.0.9"),
            ("port", "1"),
            ("flags", flags),
        ];
        let fields = fields.map(|(name, text)| (name.to_owned(), text.to_owned()));
        Told::read(&HashMap::from(fields))
    };
    assert_eq!(said("sentinel"), Some(told("a", 1)));
    assert_eq!(said("s_down,sentinel,disconnected"), None);
}

#[test]
fn an_old_word_is_not_believed_however_long_it_is_said() {
    let sentinels = sentinels(3);
    let start = Instant::now();
    sentinels.named(0, master(5, 1), start);
    let old = |index| (index, master(4, 2));
    // By one alone.
    assert_eq!(say(&sentinels, &[old(0)], start, 0..600), None);
    // By two, while one knows it otherwise.
    let all = [old(0), old(1), (2, master(5, 1))];
    assert_eq!(say(&sentinels, &all, start, 600..1200), None);
    // By two that do not name the same.
    let each = [old(0), (1, master(4, 3))];
    assert_eq!(say(&sentinels, &each, start, 1200..1800), None);
    // By one, and by another that does not answer any more.
    assert_eq!(say(&sentinels, &[old(0), old(1)], start, 1800..1804), None);
    assert_eq!(say(&sentinels, &[old(1)], start, 1804..2400), None);
    // For a moment, now and then.
    for round in 0..60 {
        let at = 2400 + 20 * round;
        assert_eq!(say(&sentinels, &[old(0), old(1)], start, at..at + 9), None);
    }
    assert_eq!(sentinels.term(), 0);
}
