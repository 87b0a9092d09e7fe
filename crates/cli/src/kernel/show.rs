//! What the kernel's stack, transition and log look like.

use std::thread::sleep;
use std::time::Duration;

use engraft_engine::TransitionStatus;
use engraft_kernel::{Kernel, Patch};
use serde::Serialize;

use super::transition::read_transition;
use crate::arguments::LogArguments;
use crate::failure::{Failure, Verdict};
use crate::log;
use crate::output::Output;
use crate::render;

const HEADINGS: [&str; 4] = ["ORDER", "PATCH", "STATE", "REPLACE"];

/// How often the log is looked at.
const POLL: Duration = Duration::from_millis(200);

#[derive(Serialize)]
struct Status {
    patches: Vec<Patch>,
    transition: Option<TransitionStatus>,
}

fn read_status() -> Result<Status, Failure> {
    let kernel = Kernel::running()?;
    let patches = kernel.patches();
    let transition = read_transition(&kernel, &patches);
    Ok(Status {
        patches,
        transition,
    })
}

pub(crate) fn list(output: &Output) -> Result<Verdict, Failure> {
    let status = read_status()?;
    if output.json {
        output.object(&status);
    } else if status.patches.is_empty() {
        output.line("no patches");
    } else {
        let mut rows = vec![HEADINGS.map(str::to_owned).to_vec()];
        rows.extend(status.patches.iter().map(row));
        output.line(&render::table(&rows));
    }
    Ok(Verdict::Done)
}

fn row(patch: &Patch) -> Vec<String> {
    let order = patch.stack_order.map(|order| order.to_string());
    let replace = patch
        .replace
        .map(|replace| if replace { "yes" } else { "no" });
    vec![
        order.unwrap_or("-".to_owned()),
        render::printable(&patch.name).into_owned(),
        state(patch).to_owned(),
        replace.unwrap_or("-").to_owned(),
    ]
}

fn state(patch: &Patch) -> &'static str {
    match (patch.transition, patch.enabled) {
        (true, _) => "in transition",
        (false, true) => "enabled",
        (false, false) => "leaving",
    }
}

pub(crate) fn status(output: &Output) -> Result<Verdict, Failure> {
    let status = read_status()?;
    if output.json {
        output.object(&status);
    } else {
        output.heading("kernel");
        output.line(&describe(&status));
    }
    Ok(Verdict::Done)
}

fn describe(status: &Status) -> String {
    let mut lines = Vec::new();
    for patch in &status.patches {
        let name = render::printable(&patch.name);
        let mut line = format!("patch '{name}': {}", state(patch));
        if let Some(order) = patch.stack_order {
            line += &format!(", order {order}");
        }
        if patch.replace == Some(true) {
            line += ", replace";
        }
        lines.push(line);
        for object in &patch.objects {
            let patched = match object.patched {
                Some(true) => ": patched",
                Some(false) => ": not patched",
                None => "",
            };
            lines.push(format!(
                "  object {}{patched}",
                render::printable(&object.name)
            ));
            for function in &object.functions {
                let name = render::printable(&function.name);
                lines.push(format!("    {name},{}", function.sympos));
            }
        }
    }
    if status.patches.is_empty() {
        lines.push("no patches".to_owned());
    }
    lines.extend(status.transition.iter().map(render::transition));
    lines.join("\n")
}

pub(crate) fn log(arguments: &LogArguments, output: &Output) -> Result<Verdict, Failure> {
    let kernel = Kernel::running()?;
    let mut next = 0;
    loop {
        for line in kernel.read_log()? {
            if line.order >= next {
                next = line.order + 1;
                if arguments.debug || line.level < log::DEBUG {
                    log::print(output, None, false, &convert(line));
                }
            }
        }
        if !arguments.follow {
            return Ok(Verdict::Done);
        }
        sleep(POLL);
    }
}

fn convert(line: engraft_kernel::LogLine) -> engraft_engine::LogLine {
    engraft_engine::LogLine {
        time_ns: line.time_ns,
        level: line.level,
        text: line.text,
        order: line.order,
    }
}

#[cfg(test)]
mod tests {
    use engraft_kernel::{Function, Object};

    use super::*;

    fn patch(replace: Option<bool>, stack_order: Option<u32>) -> Patch {
        let function = Function {
            name: "do_thing".to_owned(),
            sympos: 2,
        };
        Patch {
            name: "fix".to_owned(),
            enabled: true,
            transition: false,
            replace,
            stack_order,
            refcnt: Some(1),
            objects: vec![Object {
                name: "vmlinux".to_owned(),
                patched: replace,
                functions: vec![function],
            }],
        }
    }

    #[test]
    fn a_patch_is_shown_with_what_the_kernel_tells() {
        let status = |patch| Status {
            patches: vec![patch],
            transition: None,
        };
        assert_eq!(
            describe(&status(patch(Some(true), Some(3)))),
            "patch 'fix': enabled, order 3, replace\n  object vmlinux: patched\n    do_thing,2"
        );
        assert_eq!(
            describe(&status(patch(None, None))),
            "patch 'fix': enabled\n  object vmlinux\n    do_thing,2"
        );
        assert_eq!(row(&patch(None, None)), ["-", "fix", "enabled", "-"]);
        assert_eq!(
            row(&patch(Some(false), Some(1))),
            ["1", "fix", "enabled", "no"]
        );
    }
}
