//! Debian's memcached, unmodified, patched under a load whose every reply is checked.

mod build;
mod connection;
mod engraft;
mod history;
mod level;
mod load;
mod probe;
mod series;
mod server;
mod traffic;

use std::path::PathBuf;
use std::time::Instant;

pub(crate) use build::PACKAGE;

use crate::failure::Failure;
use crate::shell::Log;
use crate::workspace::Workspace;

/// What CI runs.
pub(crate) const DEFAULT_ROUNDS: u32 = 50;

/// The configured source, which has been built.
pub(crate) fn prepare_source(workspace: &Workspace, log: &Log) -> Result<PathBuf, Failure> {
    build::prepare(workspace, log).map(|built| built.source)
}

/// Builds memcached and the series, then goes up and down it `rounds` times.
pub(crate) fn run(workspace: &Workspace, rounds: u32, log: &Log) -> Result<String, Failure> {
    let built = build::prepare(workspace, log)?;
    let modules = engraft::compile_series(workspace, &built, log)?;
    let server = server::Server::start(&built)?;
    let load = load::Load::start(server.address())?;
    load.wait_for_confirmation()?;
    let started = Instant::now();
    let tool = engraft::Tool::new(workspace, server.pid(), log);
    let outcome = series::run(&tool, &modules, &load, rounds);
    let elapsed = started.elapsed();
    let totals = load.stop();
    outcome.and(server.check_alive())?;
    let totals = totals?;
    Ok(format!(
        "{rounds} rounds, {} transitions in {:.0} s; {} replies checked, {} probes, 0 wrong, \
         0 dropped connections",
        totals.transitions,
        elapsed.as_secs_f64(),
        totals.replies,
        totals.probes,
    ))
}
