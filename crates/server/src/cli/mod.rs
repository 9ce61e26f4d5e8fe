//! The command line.

mod load;

use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::auth::jwt::system_clock;
use crate::auth::sign::{Claims, sign};
use crate::config::given::Given;
use crate::config::{self, parse_duration};
use crate::exit::{Exit, print, refuse};
use crate::{out, serve};

/// A self-hosted realtime gateway that always knows who is really there.
#[derive(Debug, Parser)]
#[command(name = "heartline", version, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node in the foreground until SIGTERM or SIGINT
    Serve {
        #[command(flatten)]
        given: Given,
        /// For development: this machine only, a random secret, anonymous
        /// sockets, any origin, the demo page at /
        #[arg(long)]
        dev: bool,
    },
    /// Check or show the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print a token signed with the configured secret
    Token(Token),
    /// Load a server and measure it: this one, or any Socket.IO server
    Load(load::Load),
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Say what is wrong with the configuration, if anything
    Check {
        #[command(flatten)]
        given: Given,
        /// As `serve --dev` would read it
        #[arg(long)]
        dev: bool,
    },
    /// Print the effective configuration, secrets masked
    Show {
        #[command(flatten)]
        given: Given,
        /// As `serve --dev` would read it
        #[arg(long)]
        dev: bool,
    },
    /// Print the reference of all keys, as Markdown
    #[command(hide = true)]
    Docs,
}

#[derive(Debug, Args)]
struct Token {
    /// The user's id
    #[arg(long, value_name = "ID")]
    user: String,
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
    parse_duration(text).ok_or_else(|| "write it like 1h, 30m or 90s".into())
}

/// Does what was asked.
pub(crate) fn run(cli: Cli) -> Exit {
    let done = match cli.command {
        Command::Serve { given, dev } => given
            .load(dev)
            .and_then(|loaded| serve::run(loaded.settings, dev)),
        Command::Config(ConfigCommand::Check { given, dev }) => {
            given.load(dev).and_then(|loaded| {
                serve::check(&loaded.settings)?;
                print("the configuration is good\n")?;
                if let (Some(what), false) = (serve::missing_authentication(&loaded.settings), dev)
                {
                    out::complain(format!("`serve` will refuse it all the same: {what}"));
                }
                Ok(())
            })
        }
        Command::Config(ConfigCommand::Show { given, dev }) => {
            given.load(dev).and_then(|loaded| print(&loaded.show()))
        }
        Command::Config(ConfigCommand::Docs) => print(&config::reference()),
        Command::Token(token) => print_token(token),
        Command::Load(load) => load::run(load),
    };
    done.err().unwrap_or(Exit::Clean)
}

fn print_token(token: Token) -> Result<(), Exit> {
    let loaded = token.given.load(false)?;
    let claims = Claims {
        user: token.user,
        user_type: token.user_type,
        tenant: token.tenant,
        device: token.device,
        wallet: token.wallet,
        rooms: token.rooms,
        publish: token.publish,
        admin: token.admin,
    };
    let expires = system_clock() + token.ttl.as_secs();
    let token = sign(&loaded.settings.jwt, &claims, expires)
        .map_err(|error| refuse(Exit::BadConfiguration, error))?;
    print(&format!("{token}\n"))
}
