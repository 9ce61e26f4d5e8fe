//! The contract's own events, written with the same API as an app's.

mod auth;
mod messages;
mod presence;
mod rooms;
mod session;

use crate::handler::{Erased, Handler, Handlers};

/// Registers them, where the app has not put its own.
pub(crate) fn register(handlers: &mut Handlers) {
    fn add<A: 'static>(handlers: &mut Handlers, name: &str, handler: impl Handler<A>) {
        if !handlers.contains(name) {
            handlers.insert(name, Erased::boxed(handler));
        }
    }
    add(handlers, "join", rooms::join);
    add(handlers, "join:*", rooms::join_kind);
    add(handlers, "leave", rooms::leave);
    add(handlers, "leave:*", rooms::leave_kind);
    add(handlers, "publish", rooms::publish);
    add(handlers, "message:send", messages::message_send);
    add(handlers, "chat:send", messages::chat_send);
    add(handlers, "presence:get", presence::presence_get);
    add(handlers, "metrics:request", presence::metrics_request);
    add(handlers, "auth:refresh", auth::refresh);
    add(handlers, "ping", session::ping);
    add(handlers, "heartbeat:response", session::heartbeat_response);
}
