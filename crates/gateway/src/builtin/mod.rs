//! The contract's own events, written with the same API as an app's.

mod auth;
mod checkpoint;
mod given;
mod history;
mod inbox;
mod invites;
mod messages;
mod presence;
mod rooms;
mod session;

use crate::HandlerSet;

/// Registers them, where the app has not put its own.
pub(crate) fn register(handlers: HandlerSet) -> HandlerSet {
    handlers
        .or_on("join", rooms::join)
        .or_on("join:*", rooms::join_kind)
        .or_on("leave", rooms::leave)
        .or_on("leave:*", rooms::leave_kind)
        .or_on("publish", rooms::publish)
        .or_on("message:send", messages::message_send)
        .or_on("chat:send", messages::chat_send)
        .or_on("history:get", history::history_get)
        .or_on("read", inbox::read)
        .or_on("inbox:get", inbox::inbox_get)
        .or_on("invite:join", invites::join)
        .or_on("presence:get", presence::presence_get)
        .or_on("presence:watch", presence::presence_watch)
        .or_on("presence:unwatch", presence::presence_unwatch)
        .or_on("metrics:request", presence::metrics_request)
        .or_on("auth:refresh", auth::refresh)
        .or_on("session:checkpoint", checkpoint::keep)
        .on_connect(checkpoint::resume)
        .or_on("ping", session::ping)
        .or_on("heartbeat:response", session::heartbeat_response)
}
