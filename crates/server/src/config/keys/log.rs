//! `log`, `dev`: what a node writes, and the page for trying it.

#![expect(clippy::unit_arg, reason = "in the table a setter is one line")]

use super::key::{Key, node};
use crate::config::settings::LogFormat;
use crate::config::value::{one_of, truth};

/// The keys of `log` and `dev`, in the order of the reference.
pub(super) const KEYS: &[Key] = &[
    node(
        "log.format",
        "\"text\"",
        "`text` or `json`, one event a line, on standard error",
        |s, v| {
            Ok(s.log_format = one_of(v, &[("text", LogFormat::Text), ("json", LogFormat::Json)])?)
        },
    ),
    node(
        "log.level",
        "\"info\"",
        "`error`, `warn`, `info`, `debug` or `trace`; the environment variable `RUST_LOG` \
         (`warn,heartline=debug`) overrides it, and a line at the start says so",
        |s, v| {
            let levels = [
                ("error", "error"),
                ("warn", "warn"),
                ("info", "info"),
                ("debug", "debug"),
                ("trace", "trace"),
            ];
            Ok(s.log_level = one_of(v, &levels)?.to_owned())
        },
    ),
    node(
        "dev.builtin_page",
        "true",
        "with `--dev`: whether the demo page is served at `/`",
        |s, v| Ok(s.demo_page = truth(v)?),
    ),
];
