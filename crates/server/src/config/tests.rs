//! The table of keys from outside: what each accepts, what it refuses and with which words.

use super::load::{Errors, load};
use super::sources::Sources;
use super::*;

pub(super) fn set(pairs: &[&str]) -> Result<Loaded, Errors> {
    let sources = Sources {
        set: pairs.iter().map(ToString::to_string).collect(),
        ..Sources::default()
    };
    load(&sources, std::iter::empty())
}

/// The only thing that is wrong with these pairs.
pub(super) fn wrong(pairs: &[&str]) -> String {
    let Err(errors) = set(pairs) else {
        panic!("{pairs:?} was accepted");
    };
    assert_eq!(errors.0.len(), 1, "{errors}");
    errors.to_string()
}

/// The same from a file.
pub(super) fn file(text: &str) -> Result<Loaded, Errors> {
    static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let name = format!("heartline-config-{}-{number}.toml", std::process::id());
    let path = std::env::temp_dir().join(name);
    std::fs::write(&path, text).unwrap();
    let sources = Sources {
        file: path.to_str().map(ToOwned::to_owned),
        ..Sources::default()
    };
    let loaded = load(&sources, std::iter::empty());
    let _ = std::fs::remove_file(path);
    loaded
}

#[test]
fn what_depends_on_something_else_is_shown_as_it_is() {
    let cases: [(&[&str], &str); 4] = [
        (&[], "stale_after = \"40s\"\n"),
        (&["heartbeat.interval=5s"], "stale_after = \"20s\"\n"),
        (
            &["heartbeat.stale_after=auto"],
            "stale_after = \"40s\"  # from --set\n",
        ),
        (
            &["heartbeat.stale_after=60s"],
            "stale_after = \"60s\"  # from --set\n",
        ),
    ];
    for (given, shown) in cases {
        let all = set(given).unwrap().show();
        assert!(all.contains(shown), "{all}");
    }
}

#[test]
fn what_is_shown_can_be_read_again_and_is_the_same() {
    let without_origins = |shown: String| -> Vec<String> {
        let bare = |line: &str| {
            line.split("  # from ")
                .next()
                .unwrap_or_default()
                .to_owned()
        };
        // As a reader groups digits, or does not.
        let line = |line: &str| bare(line).replace("_0", "0");
        shown.lines().map(line).collect()
    };
    let cases: [&[&str]; 3] = [
        &[],
        &["presence.announce=off", "presence.offline_grace=3s"],
        &[
            "namespaces.\"/chat\".limits.messages={ count = 1, window = \"1s\" }",
            "namespaces.\"/chat\".devices.max=3",
            "namespaces.\"/bare\"=true",
            "auth.jwt.issuer=a\"b\\c",
            "server.allowed_origins=https://a.example,https://b.example",
        ],
    ];
    for given in cases {
        // The name is random unless it is given.
        let given = [given, &["server.node_id=one"]].concat();
        let shown = set(&given).unwrap().show();
        let again = file(&shown).unwrap_or_else(|errors| panic!("{errors}: {shown}"));
        assert_eq!(without_origins(shown), without_origins(again.show()));
        let names = |loaded: Loaded| -> Vec<String> {
            loaded.settings.gateway.namespaces.into_keys().collect()
        };
        assert_eq!(names(set(&given).unwrap()), names(again));
    }
}

#[test]
fn what_is_shown_in_place_of_a_secret_is_not_taken_for_it() {
    for given in [
        "admin.token=0123456789abcdef0123456789abcdef",
        "auth.jwt.secret=0123456789abcdef0123456789abcdef",
        "auth.jwt.jwks_url=https://u:p@idp.example/keys",
        "auth.jwt.jwks_url=https://idp.example/keys?api%5Fkey=s",
        "auth.jwt.jwks_url=https://idp.example/keys#s",
        "cluster.url=redis://u:p@h:1",
    ] {
        let shown = set(&[given]).unwrap_or_else(|errors| panic!("{given}: {errors}"));
        let shown = shown.show();
        let again = file(&shown).err().map(|errors| errors.to_string());
        let key = given.split('=').next().unwrap_or_default();
        let says = format!("{key} has the mask that `config show` prints");
        let again = again.unwrap_or_else(|| panic!("it was accepted: {shown}"));
        assert!(again.contains(&says), "{again}");
    }
    // Where no secret is, a text may be as it likes.
    assert!(set(&["auth.jwt.issuer=https://********.example/********"]).is_ok());
}

#[test]
fn who_may_join_and_write_by_default_is_one_of_two_words() {
    use heartline::config::RoomsDefault;
    let cases: [(&[&str], RoomsDefault); 3] = [
        (&[], RoomsDefault::Open),
        (&["rooms.default=open"], RoomsDefault::Open),
        (&["rooms.default=none"], RoomsDefault::Closed),
    ];
    for (given, expected) in cases {
        let settings = set(given).unwrap().settings;
        assert_eq!(settings.gateway.rooms_default, expected);
    }
    assert!(wrong(&["rooms.default=closed"]).contains("open, none"));
}

#[cfg(feature = "postgres")]
#[test]
fn a_postgres_url_is_for_nodes_too_and_its_password_is_never_shown() {
    let loaded = set(&[
        "store.url=postgresql://u:hunter2@db/x?sslmode=require",
        "cluster.url=redis://localhost",
    ]);
    let loaded = loaded.unwrap();
    assert!(!loaded.warnings.iter().any(|one| one.contains("store.url")));
    let shown = loaded.show();
    assert!(shown.contains("postgresql://********@db/x"), "{shown}");
    assert!(!format!("{:?}{shown}", loaded.settings.store).contains("hunter2"));
    for wrong in [
        "store.url=postgres://u:hunter2@db/x?sslmode=verify-ca",
        "store.url=postgres://u@db/x?password=hunter2",
        "store.url=postgres://u:hunter2@db:port/x",
    ] {
        let refused = set(&[wrong]).err().unwrap().to_string();
        assert!(!refused.contains("hunter2"), "{refused}");
    }
}

#[cfg(not(feature = "postgres"))]
#[test]
fn a_build_without_postgres_says_what_to_build() {
    let refused = set(&["store.url=postgres://u:hunter2@db/x"]);
    let refused = refused.err().unwrap().to_string();
    assert!(refused.contains("cargo build --release"), "{refused}");
    assert!(!refused.contains("hunter2"), "{refused}");
}

#[cfg(not(feature = "sqlite"))]
#[test]
fn a_build_without_sqlite_says_what_to_build() {
    let refused = set(&["store.url=sqlite://a.db"])
        .err()
        .map(|errors| errors.to_string())
        .unwrap_or_default();
    assert!(refused.contains("cargo build --release"), "{refused}");
}

#[cfg(feature = "sqlite")]
#[test]
fn messages_are_in_a_file_unless_nodes_would_have_to_share_it() {
    let store = |pairs: &[&str], dev| {
        let sources = Sources {
            set: pairs.iter().map(ToString::to_string).collect(),
            dev,
            ..Sources::default()
        };
        let loaded = load(&sources, std::iter::empty());
        loaded
            .map(|loaded| {
                let warned = loaded.warnings.iter().any(|one| one.contains("store.url"));
                (loaded.settings.store, warned)
            })
            .map_err(|errors| errors.to_string())
    };
    let file = |path: &str| StoreUrl::Sqlite(path.into());
    let cluster = "cluster.url=redis://localhost";
    let memory = "store.url=memory:";
    let usual = StoreUrl::Usual("heartline.db".into());
    assert_eq!(store(&[], false), Ok((usual, false)));
    assert_eq!(store(&[], true), Ok((StoreUrl::Memory, false)));
    assert_eq!(store(&[memory], false), Ok((StoreUrl::Memory, false)));
    assert_eq!(
        store(&["store.url=sqlite:///var/lib/x.db"], true),
        Ok((file("/var/lib/x.db"), false))
    );
    assert_eq!(store(&[cluster], false), Ok((StoreUrl::Memory, true)));
    assert_eq!(
        store(&[cluster, memory], false),
        Ok((StoreUrl::Memory, false))
    );
    let shared = store(&[cluster, "store.url=sqlite://x.db"], false);
    assert!(shared.unwrap_err().contains("nodes cannot share a file"));
    let wrong = store(&[cluster, "store.url=x.db"], false).unwrap_err();
    assert!(!wrong.contains("nodes cannot share a file"), "{wrong}");
    for wrong in [
        "store.url=sqlite://",
        "store.url=sqlite:x.db",
        "store.url=x.db",
    ] {
        assert!(store(&[wrong], false).is_err(), "{wrong}");
    }
}

#[test]
fn origins_are_kept_as_browsers_send_them_or_refused() {
    let loaded = set(&["server.allowed_origins=[\"https://App.example:443/\"]"]);
    let origins = loaded
        .ok()
        .map(|loaded| loaded.settings.gateway.allowed_origins);
    let kept = vec!["https://app.example".to_owned()];
    assert_eq!(origins, Some(heartline::config::AllowedOrigins::List(kept)));
    // Also beside a star, and where a comma separates them.
    for bad in ["[\"*\", \"app.example\"]", "https://a.example,b.example"] {
        let wrong = wrong(&[&format!("server.allowed_origins={bad}")]);
        assert!(wrong.contains("https://"), "{wrong}");
    }
}

#[test]
fn networks_of_ipv4_are_the_same_in_the_notation_of_ipv6() {
    let networks = |given: &str| {
        let loaded = set(&[&format!("server.trusted_proxies={given}")]);
        loaded.map(|loaded| loaded.settings.gateway.trusted_proxies)
    };
    let mapped = networks("::ffff:10.0.0.5,::ffff:10.0.0.0/104,::1").unwrap();
    assert_eq!(mapped, networks("10.0.0.5,10.0.0.0/8,::1").unwrap());
}

#[test]
fn what_cannot_work_is_refused_with_the_right_form() {
    for (pair, says) in [
        ("server.listen=8080", "\"0.0.0.0:8080\""),
        ("server.listen=*:8080", "\"0.0.0.0:8080\""),
        ("server.socketio_path=/healthz", "/healthz"),
        ("server.socketio_path=/dev/", "/dev/token"),
        ("server.socketio_path=off", "\"/socket.io/\""),
        ("server.live_path=/../live", "\"/live\""),
        ("server.max_payload=1", "128"),
        ("server.send_buffer=1", "1024"),
        ("server.max_connections=0", "\"off\""),
        ("server.compression=on", "\"off\""),
        ("server.connect_timeout=45", "\"45s\""),
        ("server.trusted_proxies=[[\"10.0.0.0/8\"]]", "list of texts"),
        ("server.trusted_proxies=10.0.0.0/33", "10.0.0.0/8"),
        ("admin.token=Bearer abc", "leave"),
        ("admin.token=\u{e4}", "ASCII"),
        (
            "admin.listen=localhost:8080",
            "admin.listen and server.listen",
        ),
        (
            "auth.jwt.secret=-----BEGIN PUBLIC KEY----- MFkwEw",
            "auth.jwt.public_key",
        ),
        ("auth.jwt.jwks_url=http://", "https://issuer.example"),
        ("auth.jwt.jwks_url=https://x y/", "https://issuer.example"),
        ("auth.jwt.jwks_url=https://x:99999/", "port"),
        ("auth.jwt.jwks_url=ftp://x/", "https://issuer.example"),
        ("auth.jwt.audience=[\"a\",\"b\"]", "not a list"),
        ("auth.jwt.leeway=2d", "1d"),
        ("auth.jwt.claims.user=", "name of a claim"),
        ("auth.jwt.query=sid", "Engine.IO"),
        ("auth.jwt.query=a=b", "\"token\""),
        ("auth.jwt.cookie=a;b", "\"session\""),
        ("devices.max=0", "at least 1"),
        ("limits.messages={count=0,window=\"10s\"}", "at least 1"),
        ("presence.offline_grace=999999d", "366d"),
        ("invites.url=https://app.example/", "/invite/{code}"),
        ("invites.url=app.example/invite/{code}", "https://app"),
        ("cluster.advertise=0.0.0.0:7000", "10.0.0.7:7000"),
        ("cluster.socketio_key=", "socket.io"),
        ("cluster.url=localhost:6379", "redis://"),
        ("cluster.lease_ttl=off", "duration"),
        ("cluster.lease_ttl=5s", "lease_refresh"),
        ("cluster.failure_timeout=100ms", "300ms"),
        ("cluster.failure_timeout=0s", "off"),
        ("=x", "KEY=VALUE"),
    ] {
        let wrong = wrong(&[pair]);
        assert!(wrong.contains(says), "{pair}: {wrong}");
    }
    let cookie = ["auth.jwt.cookie=session", "server.allowed_origins=*"];
    assert!(wrong(&cookie).contains("name the origins"));
}

#[test]
fn wallets_get_tokens_that_are_let_in() {
    let kind = |text: &str| format!("auth.wallet.user_type={text}");
    let (long, longest) = ("x".repeat(257), "x".repeat(256));
    for bad in [&*long, "\"a\\u0007b\"", "\"a\\nb\""] {
        let wrong = wrong(&[&kind(bad)]);
        assert!(wrong.contains("at most 256 bytes"), "{wrong}");
    }
    for ttl in ["999ms", "1ms"] {
        let wrong = wrong(&[&format!("auth.wallet.token_ttl={ttl}")]);
        assert!(wrong.contains("at least 1s"), "{wrong}");
    }
    for good in [
        &*kind("player"),
        &kind(&longest),
        "auth.wallet.token_ttl=1s",
    ] {
        assert!(set(&[good]).is_ok(), "{good}");
    }
}

#[test]
fn an_invites_address_has_its_code_where_it_is_found_again_or_that_is_warned_of() {
    let warned = |template: &str| {
        let loaded = set(&[&format!("invites.url={template}")]).unwrap();
        let is_of_invites = |warning: &String| warning.starts_with("invites.url has {code} where");
        loaded.warnings.iter().any(is_of_invites)
    };
    for lost in [
        "https://app.example/welcome?code={code}",
        "https://app.example/#/invite/{code}",
        "https://app.example/join?token={code}",
        "https://app.example/{code}/accept",
        "https://{code}.app.example/",
    ] {
        assert!(warned(lost), "{lost}");
    }
    for found in [
        "https://app.example/invite/{code}",
        "https://app.example/{code}?from=mail#top",
        "https://app.example/join?code={code}",
        "https://app.example/i/{code}/accept",
    ] {
        assert!(!warned(found), "{found}");
    }
}

#[test]
fn what_can_be_understood_is_understood() {
    for pair in [
        "server.listen=localhost:80",
        "server.allowed_origins=off",
        "server.trusted_proxies=off",
        "server.trusted_proxies=10.0.0.1/8, ::1",
        "server.max_payload=1.5 MB",
        "server.send_buffer=2_000_000",
        "server.max_connections=1_000",
        "server.compression=false",
        "server.client_files=OFF",
        "server.client_files=/of/the/machine/that/serves",
        "server.drain_spread=0s",
        "server.connect_timeout=45 sec",
        "auth.mode=Optional",
        "auth.jwt.leeway=off",
        "auth.jwt.jwks_url=HTTPS://issuer.example/keys",
        "devices.on_excess=evict-oldest",
        "limits.messages=10/10s",
        "limits.connects_per_ip=1_000/1m",
        "presence.offline_grace=off",
        "cluster.url=valkey://x",
        "log.level=INFO",
        "log.format=JSON",
        "dev.builtin_page=no",
    ] {
        let loaded = set(&[pair]);
        assert!(loaded.is_ok(), "{pair}: {}", loaded.err().unwrap());
    }
}

#[test]
fn no_key_takes_a_value_that_is_out_of_all_proportion() {
    // Each is told with the key's name: no key that reads numbers, sizes or durations has no end.
    let absurd = |given: &str| match given {
        "a duration" => ["500000000000y", "18446744073709551615s"],
        "a size" => ["99999999TiB", "18446744073709551615"],
        _ => ["18446744073709551615", "99999999999999999999"],
    };
    let mut counted = 0;
    for key in keys::all() {
        let said = |value: &str| set(&[&format!("{}={value}", key.name)]).err();
        // What kind of value it takes, it says when it gets another.
        let misfit = said("{ a = 1 }").map(|errors| errors.to_string());
        let misfit = misfit.unwrap_or_default();
        let kinds = ["a duration", "a size", "a whole number"];
        let Some(kind) = kinds.into_iter().find(|kind| misfit.contains(kind)) else {
            continue;
        };
        counted += 1;
        for value in absurd(kind) {
            let refused = said(value).unwrap_or_else(|| panic!("{} = {value}", key.name));
            let refused = refused.to_string();
            assert!(refused.contains(key.name), "{refused}");
        }
    }
    assert!(counted > 30, "{counted}");
    for (given, says) in [
        ("server.socketio_path=\"[]\"", "must be a path like"),
        ("server.live_path=\"[]\"", "must be a path like"),
        ("server.max_payload=99999999TiB", "at most 1GiB"),
        ("recovery.bytes=99999999TiB", "at most 1TiB"),
        ("server.worker_threads=99999999999999999999", "at most 1024"),
        ("server.send_buffer=2GiB", "at most 1GiB"),
        ("retention.messages=101y", "between 1s and 100y"),
        (
            "limits.events={count=1,window=\"200y\"}",
            "between 1ms and 366d",
        ),
        ("recovery.rooms=[\"\"]", "fits no room"),
        ("checkpoint.rooms=[\"conversation:\"]", "fits no room"),
    ] {
        let refused = wrong(&[given]);
        let key = given.split('=').next().unwrap();
        assert!(refused.contains(key) && refused.contains(says), "{refused}");
    }
}
