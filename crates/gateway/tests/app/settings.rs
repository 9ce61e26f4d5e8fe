//! Settings that no gateway can work with: `build` says which it is, and what to set.

use std::time::Duration;

use heartline::config::{ConnectLimit, DevicePolicy, Limit, NamespaceConfig, OnExcess};
use heartline::{BuildError, Config, Gateway};

use crate::config;

type Change = fn(&mut Config);

fn root(config: &mut Config) -> &mut NamespaceConfig {
    config.namespaces.get_mut("/").unwrap()
}

const WRONG: &[(&str, Change)] = &[
    ("max_payload must be at least 1", |c| c.max_payload = 0),
    ("send_buffer must be at least 1", |c| c.send_buffer = 0),
    ("max_handlers_in_flight must", |c| {
        c.max_handlers_in_flight = 0
    }),
    ("worker_threads must be at most 1024", |c| {
        c.worker_threads = 70_000;
    }),
    ("like \"/socket.io/\"", |c| {
        c.socketio_path = "socket.io".into()
    }),
    ("like \"/socket.io/\"", |c| {
        c.socketio_path = "/socket.io".into()
    }),
    ("like \"/socket.io/\"", |c| c.socketio_path.clear()),
    ("live_path must begin", |c| {
        c.live_path = Some("live".into())
    }),
    ("must not be socketio_path", |c| {
        c.live_path = Some("/socket.io/live".into());
    }),
    ("heartbeat.interval must be more than 0", |c| {
        c.heartbeat.interval = Duration::ZERO;
    }),
    ("heartbeat.sweep_interval must", |c| {
        c.heartbeat.sweep_interval = Duration::ZERO;
    }),
    ("heartbeat.app_interval must", |c| {
        c.heartbeat.app_interval = Some(Duration::ZERO);
    }),
    ("heartbeat.idle_timeout must", |c| {
        c.heartbeat.idle_timeout = Some(Duration::ZERO);
    }),
    ("heartbeat.stale_after must", |c| {
        c.heartbeat.stale_after = Some(Duration::from_secs(1));
    }),
    ("connect_timeout must", |c| {
        c.connect_timeout = Duration::ZERO
    }),
    ("upgrade_timeout must", |c| {
        c.upgrade_timeout = Duration::ZERO
    }),
    ("auth_timeout must", |c| c.auth_timeout = Duration::ZERO),
    ("handler_timeout must", |c| {
        c.handler_timeout = Duration::ZERO
    }),
    ("namespace / must exist", |c| c.namespaces.clear()),
    ("\"chat\" must begin with a slash", |c| {
        c.namespaces
            .insert("chat".into(), NamespaceConfig::default());
    }),
    ("\"/a,b\" can have no comma", |c| {
        c.namespaces
            .insert("/a,b".into(), NamespaceConfig::default());
    }),
    ("\"/a?b\" can have no comma", |c| {
        c.namespaces
            .insert("/a?b".into(), NamespaceConfig::default());
    }),
    ("max_sockets of at least 1", |c| root(c).max_sockets = 0),
    ("a max of at least 1", |c| {
        root(c).devices = DevicePolicy::Limit {
            max: 0,
            on_excess: OnExcess::Reject,
        };
    }),
    ("limits of at least 1", |c| {
        root(c).limits.events = Some(Limit::per(0, 10));
    }),
    ("limits of at least 1", |c| {
        root(c).limits.joins = Some(Limit::per(10, 0));
    }),
    ("connects_per_ip must", |c| {
        c.connects_per_ip = ConnectLimit::Limit(Limit::per(0, 10));
    }),
];

#[tokio::test(flavor = "multi_thread")]
async fn what_no_gateway_can_work_with_is_refused_with_what_to_set() {
    assert!(Gateway::builder(config()).build().is_ok());
    for (what, change) in WRONG {
        let mut config = config();
        change(&mut config);
        match Gateway::builder(config).build() {
            Err(BuildError::Config(why)) => assert!(why.contains(what), "{what}: {why}"),
            _ => panic!("{what}: it was built"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_alone_may_have_any_name() {
    for name in ["eu-1.example.org", &"long".repeat(20), "a b"] {
        let mut config = config();
        config.node_id = name.into();
        assert!(Gateway::builder(config).build().is_ok(), "{name}");
    }
}
