//! The tables in docs/clients.md are those of the code, word for word.

use std::fmt::Write as _;

use heartline_wire::codes::Code;
use heartline_wire::names::{GATEWAY_EVENTS, GATEWAY_FAMILIES};
use heartline_wire::reason::{CLOSE_CODES, Reason};
use heartline_wire::{live, socketio};

/// Holds what stands in the page between two markers against a table. What the page
/// should say is in the message, so that it can be copied from there.
fn holds(name: &str, table: &str) {
    let page = include_str!("../../../../docs/clients.md");
    let (begin, end) = (format!("<!-- {name} -->\n"), "<!-- end -->");
    let written = page
        .split_once(&begin)
        .and_then(|(_, rest)| rest.split_once(end));
    assert!(
        written.is_some_and(|(written, _)| written == table),
        "docs/clients.md should have this:\n{begin}{table}{end}\n"
    );
}

fn quoted(names: &[&str]) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    names.join(", ")
}

#[test]
fn clients_read_of_every_close_code() {
    let mut table =
        String::from("| code | when | who | reasons | come back? |\n|---|---|---|---|---|\n");
    for row in CLOSE_CODES {
        let reasons: Vec<&str> = row.reasons.iter().map(|reason| reason.as_str()).collect();
        writeln!(
            table,
            "| {} | {} | {} | {} | {} |",
            row.code,
            row.when,
            row.who.as_str(),
            quoted(&reasons),
            row.comes_back.as_str(),
        )
        .unwrap();
    }
    holds("close codes", &table);
}

#[test]
fn clients_read_of_every_reason() {
    let mut table = String::from(
        "| reason | when | who | close code | DISCONNECT | come back? |\n|---|---|---|---|---|---|\n",
    );
    for reason in Reason::all() {
        let heard = reason.who().is_heard();
        writeln!(
            table,
            "| `{reason}` | {} | {} | {} | {} | {} |",
            reason.when(),
            reason.who().as_str(),
            if heard {
                reason.close_code().to_string()
            } else {
                "none".into()
            },
            if reason.is_final() { "yes" } else { "no" },
            reason.comes_back().as_str(),
        )
        .unwrap();
    }
    holds("reasons", &table);
}

#[test]
fn clients_read_of_every_error_code() {
    let mut table = String::from("| code | when | answers | try again? |\n|---|---|---|---|\n");
    for code in Code::all() {
        let issuers: Vec<&str> = code
            .issuers()
            .iter()
            .map(|issuer| issuer.as_str())
            .collect();
        writeln!(
            table,
            "| `{code}` | {} | {} | {} |",
            code.when(),
            issuers.join(", "),
            code.retry().as_str(),
        )
        .unwrap();
    }
    holds("error codes", &table);
}

#[test]
fn clients_read_of_every_reserved_name() {
    let mut table = String::from("| event | who hears it | when |\n|---|---|---|\n");
    for own in GATEWAY_EVENTS {
        writeln!(
            table,
            "| `{}` | {} | {} |",
            own.name,
            own.to.as_str(),
            own.when
        )
        .unwrap();
    }
    writeln!(
        table,
        "| {} | | All other names that begin so |",
        quoted(GATEWAY_FAMILIES)
    )
    .unwrap();
    writeln!(
        table,
        "| {} | | Types of the live protocol |",
        quoted(live::RESERVED_TYPES)
    )
    .unwrap();
    writeln!(
        table,
        "| {} | | Socket.IO's own |",
        quoted(&socketio::RESERVED_EVENTS)
    )
    .unwrap();
    holds("reserved names", &table);
}
