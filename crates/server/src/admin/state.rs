//! What the handlers of the operators' API share.

use std::sync::Arc;

use heartline::Gateway;
use heartline_cluster::RedisOnce;

use super::idempotency::Answers;
use super::max_body;
use crate::auth::jwt::JwtAuthenticator;
use crate::config::Settings;
use crate::hosts::is_loopback;

/// What the handlers share.
#[derive(Clone)]
pub(crate) struct State {
    pub(super) gateway: Gateway,
    pub(super) tokens: JwtAuthenticator,
    pub(super) token: Option<Arc<str>>,
    pub(super) loopback: bool,
    pub(super) drain: tokio::sync::mpsc::Sender<()>,
    pub(super) answers: Answers,
    /// Largest body of a request, bytes.
    pub(super) max_body: usize,
}

impl State {
    /// What is done once over all nodes is known by `once`; a wish to drain goes to `drain`.
    pub(crate) fn new(
        gateway: Gateway,
        tokens: JwtAuthenticator,
        once: Option<RedisOnce>,
        settings: &Settings,
        drain: tokio::sync::mpsc::Sender<()>,
    ) -> Self {
        State {
            answers: Answers::new(&gateway, once),
            gateway,
            tokens,
            token: settings.admin_token.as_deref().map(Into::into),
            loopback: is_loopback(&settings.admin_listen),
            drain,
            max_body: max_body(settings.gateway.max_payload),
        }
    }
}
