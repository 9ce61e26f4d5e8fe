//! `heartline`: a realtime gateway in one binary.
//!
//! `cli` says what may be typed, `config` what may be set, `serve` runs a node,
//! `auth` verifies and signs tokens, `admin` answers operators and backends,
//! `dev` is what `--dev` adds, `doctor` says what is wrong. `exit` has the exit codes, `out` and `logs` what is
//! printed.

// They panic when nobody reads what they print; `out` does not.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod admin;
mod auth;
mod cli;
mod config;
mod dev;
mod doctor;
mod exit;
mod hosts;
mod listen;
mod logs;
mod out;
mod schedule;
mod serve;
mod signals;
mod tls;
mod wallet;

use std::process::ExitCode;

use clap::Parser;

// Frees what closed connections held: see the figure in Cargo.toml.
#[cfg(all(feature = "jemalloc", not(target_env = "msvc")))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let exit = cli::run(cli::Cli::parse());
    out::flush();
    ExitCode::from(exit as u8)
}
