//! From sources to settings. All that is wrong is said at once, a sentence each.

use std::ffi::OsString;

use super::alike::alike;
use super::check::check;
use super::settings::Settings;
use super::sources::{All, Sources, gather, not_read};
use super::understand::understand;
use super::warnings::warnings;

/// What is wrong with it, a sentence each.
#[derive(Debug)]
pub(crate) struct Errors(pub(crate) Vec<String>);

impl std::fmt::Display for Errors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

/// The configuration, understood, and as text for `config show`.
pub(crate) struct Loaded {
    pub(crate) settings: Settings,
    /// What is allowed and unwise, a sentence each.
    pub(crate) warnings: Vec<String>,
    pub(super) given: All,
}

/// Reads all sources.
///
/// # Errors
/// All that is wrong.
pub(crate) fn load(
    sources: &Sources,
    environment: impl Iterator<Item = (OsString, OsString)>,
) -> Result<Loaded, Errors> {
    let mut errors = Vec::new();
    let (given, others) = gather(sources, environment, &mut errors);
    let mut settings = understand(&given, &mut errors);
    settings.alike = alike(&settings);
    check(&settings, sources, &mut errors);
    if !errors.is_empty() {
        return Err(Errors(errors));
    }
    let mut warnings = warnings(&settings, &given);
    let others = others.iter().filter_map(|name| name.to_str());
    warnings.extend(others.filter_map(not_read));
    Ok(Loaded {
        settings,
        warnings,
        given,
    })
}
