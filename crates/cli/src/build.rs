//! The build command: from patches for a program's source to a patch module.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use engraft_build::{
    BuildError, Built, CompilingError, FinishedRequest, ModuleRequest, ObjectPair, Progress,
    Reason, Report, Side, Sources, Step, Trace, TreeRequest, build_both, build_module, find_both,
};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use crate::arguments::BuildArguments;
use crate::compile::preprocessor_flags;
use crate::failure::{Failure, Verdict};
use crate::output::Output;
use crate::render::printable;

pub(crate) fn run(arguments: &BuildArguments, output: &Output) -> Result<Verdict, Failure> {
    let work = tempfile::Builder::new()
        .prefix("engraft-build-")
        .tempdir()
        .map_err(|error| Failure::new(format!("create a temporary directory: {error}")))?;
    let bar = Bar::new(output.json);
    let started = Instant::now();
    let (before, after) = match make_objects(arguments, work.path(), &bar)? {
        Ok(built) => built,
        Err(error) => {
            // The logs that the message names are in there.
            let _ = work.keep();
            return Err(Failure::new(error.to_string()));
        }
    };
    let compiled = Instant::now();
    bar.comparing();
    let report = build_module(ModuleRequest {
        objects: ObjectPair::of_builds(&before, &after),
        sources: Some(Sources::of_builds(&before, &after)),
        library: library_name(&arguments.target),
        hooks: &arguments.hooks,
        hook_flags: &preprocessor_flags(&arguments.include, &arguments.define),
        replace_set: arguments.replace_set,
        made_for: arguments.made_for.as_deref(),
        output: &arguments.output,
    })
    .map_err(describe)?;
    drop(bar);
    let times = Times {
        compiling: compiled - started,
        comparing: compiled.elapsed(),
    };
    print(&report, &times, arguments, output)
}

/// How long it took.
struct Times {
    compiling: Duration,
    /// Extracting and writing included.
    comparing: Duration,
}

/// The objects of both versions: compiled, or found in finished trees.
fn make_objects(
    arguments: &BuildArguments,
    work: &Path,
    bar: &Bar,
) -> Result<Result<(Built, Built), CompilingError>, Failure> {
    let target = arguments.target.clone();
    let work = work.to_owned();
    if let (Some(pre), Some(post)) = (&arguments.pre, &arguments.post) {
        return Ok(find_both(&FinishedRequest {
            pre: pre.clone(),
            post: post.clone(),
            target,
            work,
        }));
    }
    let request = TreeRequest {
        source: arguments.source.clone().unwrap_or_default(),
        patches: arguments.patches.clone(),
        strip: arguments.strip,
        command: arguments.command.clone(),
        target,
        work,
        wrapper: find_wrapper()?,
    };
    Ok(build_both(&request, bar))
}

/// This program, which stands in for compilers.
pub(crate) fn find_wrapper() -> Result<PathBuf, Failure> {
    std::env::current_exe()
        .map_err(|error| Failure::new(format!("find the engraft program itself: {error}")))
}

pub(crate) fn describe(error: BuildError) -> Failure {
    let failure = Failure::new(error.to_string());
    match error.help() {
        Some(help) => failure.with_help(help),
        None => failure,
    }
}

/// Name of the object in the patch: that of the file, if it is a library.
fn library_name(target: &Path) -> Option<String> {
    let name = target.file_name()?.to_string_lossy();
    (name.ends_with(".so") || name.contains(".so.")).then(|| name.into_owned())
}

fn print(
    report: &Report,
    times: &Times,
    arguments: &BuildArguments,
    output: &Output,
) -> Result<Verdict, Failure> {
    let written = report.refusals.is_empty() && !report.replaced.is_empty();
    if output.json {
        output.object(&json!({
            "file": written.then(|| arguments.output.to_string_lossy()),
            "report": report,
            "seconds": {
                "compiling": times.compiling.as_secs_f64(),
                "comparing": times.comparing.as_secs_f64(),
            },
        }));
    } else {
        for line in render(report) {
            output.line(&line);
        }
    }
    if !report.refusals.is_empty() {
        let mut failure = Failure::new("the change cannot be made in a running program");
        if !output.json {
            failure.details = report
                .refusals
                .iter()
                .map(|refusal| printable(&refusal.to_string()).into_owned())
                .collect();
        }
        return Err(failure);
    }
    if !output.json {
        output.line(&if written {
            format!("{}: patch module", arguments.output.display())
        } else {
            "no changes: nothing to do on this build, and no module was written".to_owned()
        });
    }
    Ok(Verdict::Done)
}

fn render(report: &Report) -> Vec<String> {
    let mut lines = Vec::new();
    let mut list = |title: &str, entries: Vec<(String, &str, String)>| {
        if entries.is_empty() {
            return;
        }
        lines.push(format!("{title}:"));
        let name_width = entries.iter().map(|entry| entry.0.len()).max().unwrap_or(0);
        let object_width = entries.iter().map(|entry| entry.1.len()).max().unwrap_or(0);
        for (name, object, reason) in entries {
            let line = format!("  {name:name_width$}  {object:object_width$}  {reason}");
            lines.push(printable(line.trim_end()).into_owned());
        }
    };
    let replaced = report.replaced.iter().map(|function| {
        let name = match function.sympos {
            0 => function.name.clone(),
            position => format!("{},{position}", function.name),
        };
        (name, &*function.object, explain(&function.reason))
    });
    list("replaced", replaced.collect());
    let named = |names: &'_ [engraft_build::Named]| {
        names
            .iter()
            .map(|named| (named.name.clone(), named.object.clone()))
            .collect::<Vec<_>>()
    };
    const PAST: &str = "only 'main' leads to it, and once: a running program is likely past it";
    for (title, names, why) in [
        ("new", named(&report.added), ""),
        ("gone", named(&report.gone), ""),
        ("perhaps in vain", named(&report.once), PAST),
    ] {
        let entries = names
            .iter()
            .map(|(name, object)| (name.clone(), &**object, why.to_owned()));
        list(title, entries.collect());
    }
    for (what, why) in [
        (Trace::LineNumbers, "line numbers"),
        (Trace::Directory, "the directory of the source"),
        (Trace::Time, "the time of the build"),
    ] {
        let count = report.ignored.iter().filter(|it| it.what == what).count();
        let one = report.ignored.iter().find(|it| it.what == what);
        lines.extend(one.map(|one| {
            let line = match count {
                1 => format!("ignored: {} differs in {why} only", one.name),
                _ => format!(
                    "ignored: {count} differ in {why} only, such as {}",
                    one.name
                ),
            };
            printable(&line).into_owned()
        }));
    }
    lines
}

fn explain(reason: &Reason) -> String {
    match reason {
        Reason::Changed => "its code differs".to_owned(),
        Reason::ColdPart => "the part that was split off differs".to_owned(),
        Reason::ExceptionTable => "its exception table differs".to_owned(),
        Reason::Constant(name) => format!("it uses '{name}', a constant that differs"),
        Reason::Inlined(name) => format!("'{name}' was edited, which is inlined into it"),
        Reason::Callee(name) => format!("it is compiled to fit '{name}', which was edited"),
        Reason::Surroundings => {
            "its source is the same; a macro, type, flag or inlined function differs".to_owned()
        }
        Reason::Added => "new".to_owned(),
    }
}

/// Shows on a terminal what is being compiled.
pub(crate) struct Bar(ProgressBar);

impl Bar {
    pub(crate) fn new(quiet: bool) -> Self {
        let target = if quiet {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr()
        };
        let bar = ProgressBar::with_draw_target(None, target);
        if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix} {elapsed} {wide_msg}") {
            bar.set_style(style);
        }
        Self(bar)
    }

    fn comparing(&self) {
        self.0.set_prefix("comparing");
        self.0.set_message("");
        self.0.tick();
    }
}

impl Progress for Bar {
    fn step(&self, step: &Step<'_>) {
        match step {
            Step::Preparing => self.0.set_prefix("copying the source"),
            Step::Building(side) => self.0.set_prefix(name_of(*side)),
            Step::Compiling {
                side,
                objects,
                source,
            } => {
                self.0.set_prefix(format!("{}: {objects}", name_of(*side)));
                self.0.set_message(source.display().to_string());
            }
            Step::LineNumbersGivenUp => self.0.set_message("building with other line numbers"),
        }
        self.0.tick();
    }
}

fn name_of(side: Side) -> &'static str {
    match side {
        Side::Before => "compiling before",
        Side::After => "compiling after",
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use engraft_build::{Ignored, Named};

    use super::*;

    #[test]
    fn what_is_ignored_and_what_may_be_in_vain_is_told() {
        let ignored = |name: &str, what| Ignored {
            object: "a.o".to_owned(),
            name: name.to_owned(),
            what,
        };
        let report = Report {
            once: vec![Named {
                object: "a.o".to_owned(),
                name: "configure".to_owned(),
            }],
            ignored: vec![
                ignored("first", Trace::LineNumbers),
                ignored("version", Trace::Time),
                ignored("second", Trace::LineNumbers),
            ],
            ..Report::default()
        };
        assert_eq!(
            render(&report),
            [
                "perhaps in vain:",
                "  configure  a.o  only 'main' leads to it, and once: a running program is likely past it",
                "ignored: 2 differ in line numbers only, such as first",
                "ignored: version differs in the time of the build only",
            ]
        );
        assert!(render(&Report::default()).is_empty());
    }
}
