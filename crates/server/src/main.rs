//! `heartline`: a realtime gateway in one binary.
//!
//! `cli` says what may be typed, `config` what may be set, `serve` runs a node,
//! `auth` verifies and signs tokens, `admin` answers operators and backends,
//! `dev` is what `--dev` adds.

mod admin;
mod auth;
mod cli;
mod config;
mod dev;
mod load;
mod logs;
mod serve;
mod tls;

use std::process::ExitCode;

use clap::Parser;

// Frees what closed connections held: see the figure in Cargo.toml.
#[cfg(not(target_env = "msvc"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The contract's exit codes.
#[derive(Debug, Clone, Copy)]
enum Exit {
    Clean = 0,
    Failed = 1,
    BadConfiguration = 2,
}

fn main() -> ExitCode {
    let exit = cli::run(cli::Cli::parse());
    ExitCode::from(exit as u8)
}
