//! Frames; raw parts must be JSON, as they go into other frames.

#![no_main]

use heartline_wire::json;
use heartline_wire::live::{ClientFrame, decode, push_ack, push_event};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let mut out = String::new();
    match decode(text) {
        Ok(ClientFrame::Publish {
            topic, event, data, ..
        }) => {
            push_event(&event, Some(&topic), data, Some(1), &mut out);
        }
        Ok(ClientFrame::Emit { id, data, .. }) => push_ack(id, data, &mut out),
        Ok(ClientFrame::Auth { id, .. } | ClientFrame::Ping { id }) => {
            push_ack(id, "null", &mut out);
        }
        Ok(_) => return,
        Err(error) => {
            assert!(error.message().chars().count() < 100);
            return;
        }
    }
    // Data and ids stay as they are; only names and topics are quoted anew, never longer
    // than they were, as what needs an escape had one.
    assert!(out.len() <= text.len() + 64);
    assert!(json::is_valid(text));
    assert!(json::is_valid(&out));
});
