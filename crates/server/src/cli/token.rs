//! `token`: made and checked.

use std::fmt::Write as _;
use std::io::Read as _;
use std::time::Duration;

use clap::{Args, Subcommand};
use heartline::auth::{AuthError, Identity, RoomPattern};
use heartline::rooms::{MAX_NAME, can_fit};

use crate::auth::jwt::{JwtAuthenticator, system_clock};
use crate::auth::refusal::Refused;
use crate::auth::sign::{Claims, sign};
use crate::config::given::Given;
use crate::config::{JwtSettings, parse_duration};
use crate::exit::{Exit, print, refuse};

/// Most bytes of standard input that are looked at: no token is nearly so long.
const MAX_INPUT: u64 = 64 * 1024;

/// Longest time that a token is good for: what is longer was not meant, and other libraries do not
/// read it.
const MAX_TTL: Duration = Duration::from_secs(100 * 31_557_600);
const MIN_TTL: Duration = Duration::from_secs(1);
const MAX_TTL_TEXT: &str = "100y";

/// How much of a name that is none is said again, characters.
const MAX_SHOWN: usize = 64;

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(super) struct Token {
    #[command(subcommand)]
    command: Option<TokenCommand>,
    /// The user's id
    #[arg(long, value_name = "ID", required = true)]
    user: Option<String>,
    /// The kind of user
    #[arg(long = "type", value_name = "T")]
    user_type: Option<String>,
    /// The user's tenant
    #[arg(long, value_name = "T")]
    tenant: Option<String>,
    /// The device the token is for
    #[arg(long, value_name = "D")]
    device: Option<String>,
    /// The user's wallet address
    #[arg(long, value_name = "W")]
    wallet: Option<String>,
    /// Rooms that may be joined: a name, or a prefix with * at its end; may be repeated
    #[arg(long = "room", value_name = "PATTERN")]
    rooms: Vec<String>,
    /// Rooms that may be published to; may be repeated
    #[arg(long, value_name = "PATTERN")]
    publish: Vec<String>,
    /// May ask for metrics
    #[arg(long)]
    admin: bool,
    /// How long the token is good for
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = ttl)]
    ttl: Duration,
    #[command(flatten)]
    given: Given,
}

fn ttl(text: &str) -> Result<Duration, String> {
    let like = "write it like 1h, 30m or 90s";
    let ttl = parse_duration(text).ok_or(like)?;
    // Tokens count in whole seconds.
    if ttl < MIN_TTL {
        return Err(format!("{like}; less than 1s would be over at once"));
    }
    match ttl <= MAX_TTL {
        true => Ok(ttl),
        false => Err(format!("{like}; it is {MAX_TTL_TEXT} at most")),
    }
}

/// A list of rooms of which each can be one's.
fn check_rooms(option: &str, patterns: &[String]) -> Result<(), String> {
    for pattern in patterns {
        if !can_fit(&RoomPattern::new(pattern)) {
            return Err(format!(
                "no room can be {option} {:?}: a name has 1 to {MAX_NAME} bytes, none of them a \
                 control character, and a conversation's has its id in it",
                pattern.chars().take(MAX_SHOWN).collect::<String>()
            ));
        }
    }
    Ok(())
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Explain a token in words; exit 0 if a node would take it, 1 if not
    Check {
        /// The token; from standard input without it
        #[arg(value_name = "TOKEN")]
        token: Option<String>,
        #[command(flatten)]
        given: Given,
    },
}

/// Makes a token, or checks one.
pub(super) fn run(mut token: Token) -> Result<(), Exit> {
    match token.command.take() {
        Some(TokenCommand::Check { token, given }) => check(token, given),
        None => make(token),
    }
}

fn make(token: Token) -> Result<(), Exit> {
    let bad = |error: String| refuse(Exit::BadConfiguration, error);
    let loaded = token.given.load(false)?;
    check_rooms("--room", &token.rooms).map_err(bad)?;
    check_rooms("--publish", &token.publish).map_err(bad)?;
    let claims = Claims {
        user: token.user.unwrap_or_default(),
        user_type: token.user_type,
        tenant: token.tenant,
        device: token.device,
        wallet: token.wallet,
        rooms: token.rooms,
        publish: token.publish,
        admin: token.admin,
    };
    let expires = system_clock() + token.ttl.as_secs();
    let jwt = &loaded.settings.jwt;
    let token = sign(jwt, &claims, expires).map_err(bad)?;
    // What else nodes verify with has no part in it, and may be on their machines alone.
    let own = JwtSettings {
        public_key: None,
        jwks_url: None,
        wallet_key: None,
        ..jwt.clone()
    };
    match verify(&own, &token)? {
        // One that was good for a second may be over by now.
        Err(refused) if refused.error != AuthError::Expired => Err(bad(format!(
            "no node would take this token: {}",
            refused.why
        ))),
        _ => print(&format!("{token}\n")),
    }
}

/// What a node of these settings thinks of a token.
fn verify(settings: &JwtSettings, token: &str) -> Result<Result<Identity, Refused>, Exit> {
    let authenticator = JwtAuthenticator::new(settings, system_clock)
        .map_err(|error| refuse(Exit::BadConfiguration, error))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(|error| refuse(Exit::Failed, error.to_string()))?;
    Ok(runtime.block_on(authenticator.verify(token)))
}

fn check(token: Option<String>, given: Given) -> Result<(), Exit> {
    let settings = given.load(false)?.settings;
    if !settings.jwt.is_configured() {
        return Err(refuse(
            Exit::BadConfiguration,
            "a token is checked with the key of auth.jwt.secret, auth.jwt.public_key or \
             auth.jwt.jwks_url, and none is configured: set one with --config, --set or \
             HEARTLINE__AUTH__JWT__SECRET",
        ));
    }
    let failed = |what: String| refuse(Exit::Failed, what);
    let token = match token.filter(|token| token != "-") {
        Some(token) => token,
        None => {
            let mut text = String::new();
            let read = std::io::stdin()
                .lock()
                .take(MAX_INPUT)
                .read_to_string(&mut text);
            read.map_err(|error| failed(format!("standard input cannot be read: {error}")))?;
            text
        }
    };
    let token = token.trim();
    let token = token.strip_prefix("Bearer ").unwrap_or(token).trim();
    match verify(&settings.jwt, token)? {
        Ok(identity) => print(&explain(&identity, system_clock())),
        Err(refused) => {
            let code = refused.error.code().as_str();
            print(&format!("the token is refused ({code}): {}\n", refused.why))?;
            Err(Exit::Failed)
        }
    }
}

/// What a good token says, in words; `now` is in Unix seconds.
fn explain(identity: &Identity, now: u64) -> String {
    let mut out = String::from("the token is good\n");
    let mut say = |what: &str, value: Option<&str>| {
        if let Some(value) = value {
            let _ = writeln!(out, "  {what:<9}{value}");
        }
    };
    say("user", identity.user_id());
    let user = identity.user.as_ref();
    say("type", user.and_then(|user| user.user_type.as_deref()));
    say("tenant", identity.tenant_id().map(|tenant| &**tenant));
    say("device", identity.device_id.as_deref());
    say("wallet", identity.wallet_address.as_deref());
    for (what, patterns) in [("rooms", &identity.rooms), ("publish", &identity.publish)] {
        let count = patterns.as_ref().map(|patterns| match patterns.len() {
            0 => "none".to_owned(),
            1 => "1 pattern".to_owned(),
            count => format!("{count} patterns"),
        });
        say(
            what,
            Some(
                count
                    .as_deref()
                    .unwrap_or("as the node's configuration says"),
            ),
        );
    }
    say("admin", identity.admin.then_some("yes"));
    let left = identity
        .expires_at
        .map(|at| (at / 1000).saturating_sub(now));
    let left = left.map(|left| match left {
        0..120 => format!("in {left} s, the leeway included"),
        120..7200 => format!("in {} minutes", left / 60),
        7200..172_800 => format!("in {} hours", left / 3600),
        // A hundred years: milliseconds where seconds are meant.
        3_155_760_000.. => "in more than a hundred years: is `exp` in milliseconds?".to_owned(),
        _ => format!("in {} days", left / 86_400),
    });
    say("expires", left.as_deref());
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        token: Token,
    }

    #[test]
    fn a_token_is_made_where_the_key_of_others_is_not() {
        let secret = "auth.jwt.secret=0123456789abcdef0123456789abcdef";
        let absent = "auth.jwt.public_key=/nowhere/that/is/there.pem";
        let made = |more: &[&str]| {
            let given = ["token", "--user", "7", "--set", secret, "--set", absent];
            run(Cli::parse_from(given.iter().chain(more)).token)
        };
        assert!(made(&[]).is_ok());
        // What no node would take is still not made.
        assert!(made(&["--device", "a\nb"]).is_err());
    }

    #[test]
    fn no_token_is_for_rooms_that_cannot_be() {
        let secret = "auth.jwt.secret=0123456789abcdef0123456789abcdef";
        let made = |option: &str, room: &str| {
            let given = ["token", "--user", "7", "--set", secret, option, room];
            run(Cli::parse_from(given).token)
        };
        let long = "x".repeat(MAX_NAME);
        for option in ["--room", "--publish"] {
            for room in [&*long, &format!("{long}*"), "*", "conversation:*", "user:7"] {
                assert!(made(option, room).is_ok(), "{option} {room}");
            }
            for room in [
                "",
                "conversation:",
                "a\nb",
                "a\n*",
                &format!("{long}x"),
                &format!("{long}x*"),
            ] {
                assert!(made(option, room).is_err(), "{option} {room:?}");
            }
        }
    }

    #[test]
    fn a_token_is_good_for_a_century_at_most() {
        assert_eq!(ttl("100y"), Ok(MAX_TTL));
        for long in ["36526d", "9999y", "500000000000y"] {
            assert!(ttl(long).unwrap_err().contains(MAX_TTL_TEXT), "{long}");
        }
        assert_eq!(ttl("1s"), Ok(MIN_TTL));
        for short in ["0s", "0m", "999ms"] {
            assert!(ttl(short).unwrap_err().contains("1s"), "{short}");
        }
        assert!(ttl("1 parsec").unwrap_err().contains("like 1h"));
    }
}
