//! The command line.

mod load;
mod token;

use clap::{Parser, Subcommand};

use crate::config::given::Given;
use crate::config::{self, Loaded};
use crate::exit::{Exit, print};
use crate::{dev, doctor, out, schedule, serve};

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
    /// Look at this machine, the configuration and what they need, and say what to type
    ///
    /// One line for each check: ok, warning or problem, what was found, and what to do about it.
    /// Descriptors, ports, clock, certificate, keys, the operators' listener, Redis and the nodes
    /// that live there, the store and its disk. Nothing is changed. Exit status: 0 if there is no
    /// problem, 1 if there is one, 2 if the configuration cannot be understood.
    Doctor(doctor::Doctor),
    /// Check or show the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print a token signed with the configured secret, or check one
    Token(token::Token),
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

/// Says that a configuration is good, and what is to be said of it besides.
///
/// # Errors
/// The exit code; the reason is on standard error.
fn check(loaded: Loaded, dev: bool) -> Result<(), Exit> {
    let Loaded {
        mut settings,
        mut warnings,
        ..
    } = loaded;
    if dev {
        dev::prepare(&mut settings);
    }
    warnings.extend(serve::check(&settings)?);
    let next = settings.schedule.show_next(schedule::now(), 3);
    print("the configuration is good\n")?;
    print(&format!("retention is done next at {}\n", next.join(", ")))?;
    warnings.iter().for_each(out::complain);
    if let Some(what) = serve::missing_authentication(&settings) {
        out::complain(format!("`serve` will refuse it all the same: {what}"));
    }
    Ok(())
}

/// Does what was asked.
pub(crate) fn run(cli: Cli) -> Exit {
    let done = match cli.command {
        Command::Serve { given, dev } => given.load(dev).and_then(|loaded| serve::run(loaded, dev)),
        Command::Doctor(doctor) => doctor::run(doctor),
        Command::Config(ConfigCommand::Check { given, dev }) => {
            given.load(dev).and_then(|loaded| check(loaded, dev))
        }
        Command::Config(ConfigCommand::Show { given, dev }) => {
            given.load(dev).and_then(|loaded| print(&loaded.show()))
        }
        Command::Config(ConfigCommand::Docs) => print(&config::reference()),
        Command::Token(token) => token::run(token),
        Command::Load(load) => load::run(load),
    };
    done.err().unwrap_or(Exit::Clean)
}
