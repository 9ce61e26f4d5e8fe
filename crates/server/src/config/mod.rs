//! Configuration: a file, then the environment, then `--set`; the later wins.
//!
//! All sources become one list of keys and values; the table in [`keys`] says
//! what each means. All that is wrong is said at once, a sentence each.

mod alike;
mod check;
pub(crate) mod given;
mod keys;
mod load;
mod names;
mod place;
mod reference;
mod settings;
mod show;
mod sources;
#[cfg(test)]
mod tests;
mod understand;
mod value;
mod warnings;

pub(crate) use load::Loaded;
pub(crate) use reference::reference;
pub(crate) use settings::{ClaimNames, JwtSettings, LogFormat, Settings, StoreUrl, WalletSettings};
pub(crate) use value::parse_duration;
pub(crate) use warnings::{exposed, short_secret};
