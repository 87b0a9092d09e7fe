//! The check command: would a patch module apply, and what would block it.

use engraft_engine::CheckReport;

use crate::arguments::CheckArguments;
use crate::failure::{Failure, Verdict};
use crate::module_file::ModuleFile;
use crate::output::{Output, tag_process};
use crate::render;
use crate::target;

pub(crate) fn run(arguments: &CheckArguments, output: &Output) -> Result<Verdict, Failure> {
    let file = ModuleFile::read(&arguments.file)?;
    let request = file.request(&arguments.parameters, true);
    target::for_each(&arguments.target, output, |pid| {
        let report = engraft_engine::check(pid, &request)?;
        if output.json {
            output.object(&tag_process(Some(pid), &report));
        } else {
            output.heading(&format!("process {pid}: {}", conclude(&report)));
            let details = describe(&report);
            if !details.is_empty() {
                output.line(&details);
            }
        }
        Ok(if report.problems.is_empty() {
            Verdict::Done
        } else {
            Verdict::Failed
        })
    })
}

fn conclude(report: &CheckReport) -> String {
    match report.problems.len() {
        0 => "would apply".to_owned(),
        1 => "would be refused".to_owned(),
        many => format!("would be refused for {many} reasons"),
    }
}

fn describe(report: &CheckReport) -> String {
    let mut lines: Vec<String> = report
        .problems
        .iter()
        .map(|problem| format!("  {}", render::printable(problem)))
        .collect();
    for function in &report.functions {
        let (object, name) = (
            render::printable(&function.object),
            render::printable(&function.name),
        );
        let matched = if function.matched { ", matched" } else { "" };
        let place = format!("{:#x}, {} bytes{matched}", function.address, function.size);
        lines.push(match &function.problem {
            None => format!("  {object} {name}: {place}"),
            Some(why) => format!(
                "  {object} {name}: {place}, refused: {}",
                render::printable(why)
            ),
        });
    }
    if !report.would_block.is_empty() {
        lines.push("threads that would have to leave first:".to_owned());
        lines.extend(
            report
                .would_block
                .iter()
                .map(|held| format!("  {}", render::blocker(held))),
        );
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use engraft_engine::{BlockerStatus, CheckedFunction};

    use super::*;

    fn function(problem: Option<String>) -> CheckedFunction {
        CheckedFunction {
            object: "server".to_owned(),
            name: "serve".to_owned(),
            address: 0x1234,
            size: 80,
            matched: problem.is_none(),
            problem,
        }
    }

    #[test]
    fn an_applicable_module_names_what_would_block_it() {
        let report = CheckReport {
            module: "fix".to_owned(),
            functions: vec![function(None)],
            problems: Vec::new(),
            would_block: vec![BlockerStatus {
                tid: 9,
                comm: "worker".to_owned(),
                state: 'S',
                reason: "is sleeping on function serve".to_owned(),
                function: None,
                stack: Vec::new(),
            }],
        };
        assert_eq!(conclude(&report), "would apply");
        assert_eq!(
            describe(&report),
            "  server serve: 0x1234, 80 bytes, matched\n\
             threads that would have to leave first:\n  \
             thread 9 (worker, S): is sleeping on function serve"
        );
    }

    #[test]
    fn a_refused_module_names_every_problem() {
        let report = CheckReport {
            module: "fix".to_owned(),
            functions: vec![function(Some("too short".to_owned()))],
            problems: vec![
                "symbol 'x' not found".to_owned(),
                "symbol 'y' not found".to_owned(),
            ],
            would_block: Vec::new(),
        };
        assert_eq!(conclude(&report), "would be refused for 2 reasons");
        assert_eq!(
            describe(&report),
            "  symbol 'x' not found\n  symbol 'y' not found\n  \
             server serve: 0x1234, 80 bytes, refused: too short"
        );
    }
}
