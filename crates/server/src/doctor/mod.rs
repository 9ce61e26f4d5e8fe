//! `heartline doctor`: what is wrong with this machine, this configuration and what they need, and
//! what to type.
//!
//! Each check looks, and leaves what it found to a pure function that judges it. Nothing is
//! changed, but for a file that is written and removed where files have to be written.

mod admin;
mod clock;
mod cluster;
mod disk;
mod machine;
mod ports;
mod report;
mod store;
mod tls;
mod tokens;

use std::path::{Path, PathBuf};

use clap::Args;

use crate::auth::jwt::system_clock;
use crate::config::given::Given;
use crate::config::{Loaded, Settings, exposed, short_secret};
use crate::exit::{Exit, print, refuse};
use crate::serve::{missing_authentication, missing_files};
use report::{Check, Report};

#[derive(Debug, Args)]
pub(crate) struct Doctor {
    #[command(flatten)]
    given: Given,
    /// As `serve --dev` would read the configuration
    #[arg(long)]
    dev: bool,
    /// One JSON object, {ok, checks: [{name, status, found, todo}]}, instead of lines
    #[arg(long)]
    json: bool,
}

/// Looks at everything, and says it.
///
/// # Errors
/// `Failed` if there is a problem; `BadConfiguration` where nothing else can be looked at.
pub(crate) fn run(doctor: Doctor) -> Result<(), Exit> {
    let Doctor { given, dev, json } = doctor;
    let loaded = given.load(dev)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|error| refuse(Exit::Failed, error))?;
    let mut report = Report::new(json);
    report.begin()?;
    let done = runtime.block_on(look(&mut report, &loaded, dev));
    // A name that is still looked up is not waited for.
    runtime.shutdown_background();
    done?;
    report.end()?;
    match report.is_ok() {
        true => Ok(()),
        false => Err(Exit::Failed),
    }
}

async fn look(report: &mut Report, loaded: &Loaded, dev: bool) -> Result<(), Exit> {
    let settings = &loaded.settings;
    report.add_all(configuration(loaded))?;
    let (checks, running) = ports::look(settings).await;
    report.add_all(checks)?;
    report.add_all(machine::look(settings, running))?;
    report.add_all(tls::look(settings, system_clock()))?;
    let missing = missing_authentication(settings).filter(|_| !dev);
    report.add_all(tokens::look(settings, missing).await)?;
    report.add(admin::judge(settings))?;
    let (checks, redis) = cluster::look(settings).await;
    report.add_all(checks)?;
    let (checks, postgres) = store::look(settings, running).await;
    report.add_all(checks)?;
    let clocks = [("Redis", redis), ("PostgreSQL", postgres)];
    let is_set = clock::is_set().await;
    report.add(clock::judge(system_clock(), is_set, &clocks))?;
    report.add_all(kept(settings))
}

/// What is allowed and unwise; what other checks say better is left to them.
fn configuration(loaded: &Loaded) -> Vec<Check> {
    const NAME: &str = "configuration";
    let said_elsewhere = [exposed(&loaded.settings), short_secret(&loaded.settings)];
    let warnings = loaded.warnings.iter();
    let warnings = warnings.filter(|what| !said_elsewhere.contains(&Some((*what).clone())));
    let mut checks: Vec<Check> = warnings
        .map(|what| Check::warning(NAME, what, None))
        .collect();
    if let Some(what) = missing_files(&loaded.settings) {
        let todo = "name the folder dist of the npm package socket.io-client, or set it to off";
        checks.push(Check::problem(NAME, what, Some(todo.into())));
    }
    for file in loaded.secret_files() {
        checks.extend(open_file(NAME, Path::new(file), "secrets"));
    }
    if checks.is_empty() {
        checks.push(Check::ok(NAME, "it is good"));
    }
    checks
}

/// A file that others of this machine can read, and should not.
fn open_file(name: &'static str, file: &Path, what: &str) -> Option<Check> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(file).ok()?.permissions().mode();
        let path = file.display();
        (mode & 0o004 != 0).then(|| {
            let found = format!("{path} holds {what}, and every user of this machine can read it");
            let todo = format!("chmod o-rwx {path}; the node's own user has to be able to read it");
            Check::warning(name, found, Some(todo))
        })
    }
    #[cfg(not(unix))]
    {
        let _ = (name, file, what);
        None
    }
}

/// Where what is kept for clients that come back outlives the process.
fn kept(settings: &Settings) -> Vec<Check> {
    let recovery = &settings.gateway.recovery;
    if recovery.window.is_none() || settings.cluster_url.is_some() {
        return Vec::new();
    }
    let (key, path) = match &recovery.journal {
        Some(path) => ("recovery.journal", path.clone()),
        None => ("recovery.window", settings.store.stopped()),
    };
    disk::look("journal", key, &folder_of(&path), None)
}

/// The folder of a file.
fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}
