//! The flags that say where the configuration comes from, and what is done when it
//! is wrong.

use clap::Args;

use super::load::{Loaded, load};
use super::sources::Sources;
use crate::exit::Exit;
use crate::out;

/// Where the configuration comes from.
#[derive(Clone, Debug, Args)]
pub(crate) struct Given {
    /// Configuration file (TOML)
    #[arg(long, value_name = "FILE")]
    config: Option<String>,
    /// Set one key, over file and environment; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl Given {
    /// Reads the configuration from there; `dev` as with `serve --dev`.
    ///
    /// # Errors
    /// The exit code; what is wrong is on standard error, a sentence each.
    pub(crate) fn load(self, dev: bool) -> Result<Loaded, Exit> {
        let sources = Sources {
            file: self.config,
            set: self.set,
            dev,
        };
        load(&sources, std::env::vars_os()).map_err(|errors| {
            errors.0.iter().for_each(out::complain);
            Exit::BadConfiguration
        })
    }
}
