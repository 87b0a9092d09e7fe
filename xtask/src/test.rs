//! `cargo xtask test`: everything that CI checks, in the order of what fails fastest.

use std::process::Command;

use crate::failure::Failure;
use crate::shell::{self, Log};
use crate::steps::Steps;
use crate::workspace::Workspace;
use crate::{conformance, corpus, csmith, example, memcached, packages, simulate, tidy};

/// Runs every step even after one has failed; only the later ones that need its result are
/// left out, and then the run has failed anyway.
pub(crate) fn run(workspace: &Workspace) -> Result<(), Failure> {
    let mut steps = Steps::new(workspace);
    let equipped = steps.run("packages", &packages::install)?;
    steps.run("format", &|log| {
        cargo(workspace, &["fmt", "--all", "--check"], log)
    })?;
    steps.run("tidy", &|_| tidy::run(workspace))?;
    if equipped {
        run_compiled(workspace, &mut steps)?;
    }
    steps.finish()
}

fn run_compiled(workspace: &Workspace, steps: &mut Steps<'_>) -> Result<(), Failure> {
    let clippy = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--all-features",
        "--",
        "--deny",
        "warnings",
    ];
    steps.run("clippy", &|log| cargo(workspace, &clippy, log))?;
    steps.run("tests", &|log| run_tests(workspace, log))?;
    steps.run("simulator", &|log| {
        simulate::run(workspace, simulate::DEFAULT_COUNT, None, log)
    })?;
    steps.run("conformance", &|log| {
        conformance::run(workspace, &conformance::Extent::quick(), log)
    })?;
    let build = ["build", "--release", "--package", "engraft"];
    if steps.run("release", &|log| cargo(workspace, &build, log))? {
        steps.run("example", &|log| example::run(workspace, log))?;
        let (count, seed) = csmith::extent(true);
        steps.run("csmith", &|log| csmith::run(workspace, count, seed, log))?;
        steps.run("memcached", &|log| {
            memcached::run(workspace, memcached::DEFAULT_ROUNDS, log)
        })?;
        steps.run("corpus", &|log| corpus::run(workspace, None, true, log))?;
        steps.run("demo", &|log| {
            let mut demo = Command::new(workspace.engraft_binary());
            shell::run(demo.arg("demo").current_dir(workspace.root()), log)?;
            Ok(String::new())
        })?;
    }
    Ok(())
}

fn cargo(workspace: &Workspace, arguments: &[&str], log: &Log) -> Result<String, Failure> {
    shell::run(&mut workspace.cargo(arguments), log)?;
    Ok(String::new())
}

/// Every target of every crate, going on after a failing one so that the log has them all.
fn run_tests(workspace: &Workspace, log: &Log) -> Result<String, Failure> {
    let tests = ["test", "--workspace", "--no-fail-fast"];
    shell::run(&mut workspace.cargo(&tests), log)?;
    let passed: u64 = log.contents().lines().filter_map(count_passed).sum();
    Ok(format!("{passed} tests"))
}

fn count_passed(line: &str) -> Option<u64> {
    let rest = line.strip_prefix("test result: ok. ")?;
    rest.split_once(" passed")?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::count_passed;

    #[test]
    fn only_result_lines_count() {
        let line = "test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 3 filtered out";
        assert_eq!(count_passed(line), Some(12));
        assert_eq!(
            count_passed("test result: FAILED. 12 passed; 1 failed"),
            None
        );
        assert_eq!(count_passed("test tests::ok. 12 passed ... ok"), None);
    }
}
