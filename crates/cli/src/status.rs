//! The commands that show the stack of patches: list and status.

use engraft_engine::{ObjectStatus, PatchStatus, StateStatus, Status};

use crate::failure::{Failure, Verdict};
use crate::output::Output;
use crate::render;
use crate::target::{self, Target};

const HEADINGS: [&str; 6] = ["PID", "ORDER", "PATCH", "STATE", "REPLACE", "FORCED"];

pub(crate) fn list(target: &Target, output: &Output) -> Result<Verdict, Failure> {
    let mut rows = Vec::new();
    let verdict = target::for_each(target, output, |pid| {
        let status = engraft_engine::read_status(pid)?;
        if output.json {
            output.object(&status);
        }
        rows.extend(status.patches.iter().map(|patch| list_row(pid, patch)));
        Ok(Verdict::Done)
    })?;
    if output.json {
        return Ok(verdict);
    }
    if rows.is_empty() && verdict == Verdict::Done {
        output.line("no patches");
    } else if !rows.is_empty() {
        rows.insert(0, HEADINGS.map(str::to_owned).to_vec());
        output.line(&render::table(&rows));
    }
    Ok(verdict)
}

pub(crate) fn status(target: &Target, output: &Output) -> Result<Verdict, Failure> {
    target::for_each(target, output, |pid| {
        let status = engraft_engine::read_status(pid)?;
        if output.json {
            output.object(&status);
        } else {
            let executable = render::printable(&status.executable);
            output.heading(&format!("process {pid} ({executable})"));
            output.line(&describe(&status));
        }
        Ok(Verdict::Done)
    })
}

fn list_row(pid: i32, patch: &PatchStatus) -> Vec<String> {
    vec![
        pid.to_string(),
        patch
            .stack_order
            .map_or("-".to_owned(), |order| order.to_string()),
        render::printable(&patch.name).into_owned(),
        render::state(patch.state).to_owned(),
        yes_no(patch.replace),
        yes_no(patch.forced),
    ]
}

fn yes_no(value: bool) -> String {
    if value { "yes" } else { "no" }.to_owned()
}

fn describe(status: &Status) -> String {
    let mut lines = Vec::new();
    for patch in &status.patches {
        lines.push(describe_patch(patch));
        lines.extend(patch.objects.iter().map(describe_object));
        lines.extend(patch.states.iter().map(describe_state));
    }
    if status.patches.is_empty() {
        lines.push("no patches".to_owned());
    }
    if let Some(transition) = &status.transition {
        lines.push(render::transition(transition));
    }
    lines.join("\n")
}

fn describe_patch(patch: &PatchStatus) -> String {
    let mut line = format!(
        "patch '{}': {}",
        render::printable(&patch.name),
        render::state(patch.state)
    );
    if let Some(order) = patch.stack_order {
        line += &format!(", order {order}");
    }
    for (set, word) in [(patch.replace, "replace"), (patch.forced, "forced")] {
        if set {
            line += &format!(", {word}");
        }
    }
    if patch.replace_set != 0 {
        line += &format!(", set {}", patch.replace_set);
    }
    line
}

fn describe_state(state: &StateStatus) -> String {
    let mut text = format!("  state {}, version {}", state.id, state.version);
    for (is_so, words) in [
        (state.managed, "set up and taken back by itself"),
        (state.is_shadow, "owns its shadow variables"),
        (state.block_disable, "cannot be taken back"),
    ] {
        if is_so {
            text += &format!(", {words}");
        }
    }
    text
}

fn describe_object(object: &ObjectStatus) -> String {
    let state = match (object.loaded, object.patched) {
        (false, _) => "not loaded",
        (true, true) => "patched",
        (true, false) => "not patched",
    };
    let mut text = format!("  object {}: {state}", render::printable(&object.name));
    for function in &object.functions {
        // The kernel's directory names print position 1 for 0, too.
        let sympos = function.sympos.max(1);
        text += &format!("\n    {},{sympos}", render::printable(&function.name));
        if function.nop {
            text += " (nop)";
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use engraft_engine::{Direction, FunctionStatus, PatchState, TransitionStatus};

    use super::*;

    fn patch(name: &str, state: PatchState, stack_order: Option<u32>) -> PatchStatus {
        PatchStatus {
            name: name.to_owned(),
            state,
            enabled: true,
            transition: state == PatchState::InTransition,
            replace: true,
            forced: false,
            refcnt: 1,
            stack_order,
            replace_set: 0,
            objects: Vec::new(),
            states: Vec::new(),
        }
    }

    #[test]
    fn status_shows_objects_functions_nops_and_the_transition() {
        let function = |name: &str, sympos, nop| FunctionStatus {
            name: name.to_owned(),
            sympos,
            nop,
        };
        let mut running = patch("demo_fix2", PatchState::InTransition, Some(2));
        running.objects = vec![
            ObjectStatus {
                name: "server".to_owned(),
                patched: true,
                loaded: true,
                functions: vec![
                    function("format_amount", 0, false),
                    function("price_order", 2, true),
                ],
            },
            ObjectStatus {
                name: "libz.so.1".to_owned(),
                patched: false,
                loaded: false,
                functions: Vec::new(),
            },
        ];
        running.replace_set = 7;
        running.states = vec![StateStatus {
            id: 5,
            version: 1,
            managed: true,
            is_shadow: true,
            block_disable: false,
        }];
        let mut forced = patch("demo_fix1", PatchState::Replaced, None);
        forced.forced = true;
        forced.replace = false;
        let status = Status {
            pid: 42,
            executable: "/bin/server".to_owned(),
            patches: vec![forced, running],
            transition: Some(TransitionStatus {
                patch: "demo_fix2".to_owned(),
                target: Direction::Unpatched,
                total: 3,
                switched: 1,
                attempts: 1,
                blockers: Vec::new(),
            }),
        };
        assert_eq!(
            describe(&status),
            "\
patch 'demo_fix1': replaced, forced
patch 'demo_fix2': in transition, order 2, replace, set 7
  object server: patched
    format_amount,1
    price_order,2 (nop)
  object libz.so.1: not loaded
  state 5, version 1, set up and taken back by itself, owns its shadow variables
transition of 'demo_fix2' to unpatched: 1 of 3 threads switched, 1 pass"
        );
    }

    #[test]
    fn an_unpatched_process_says_so() {
        let status = Status {
            pid: 1,
            executable: String::new(),
            patches: Vec::new(),
            transition: None,
        };
        assert_eq!(describe(&status), "no patches");
    }

    #[test]
    fn list_has_a_row_for_each_patch() {
        let row = list_row(42, &patch("fix", PatchState::Enabled, Some(1)));
        assert_eq!(row, ["42", "1", "fix", "enabled", "yes", "no"]);
        let row = list_row(42, &patch("fix", PatchState::Registered, None));
        assert_eq!(row, ["42", "-", "fix", "not enabled", "yes", "no"]);
    }
}
