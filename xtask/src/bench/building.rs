//! What `engraft build` costs beyond the compilations, on a real project and on a large tree.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::measurement::Measurement;
use crate::failure::{Context, Failure};
use crate::memcached;
use crate::shell::{self, Log};
use crate::workspace::Workspace;

const OBJECTS: u32 = 2000;
/// Sources that one compiler is started for.
const BATCH: usize = 50;

/// Comparing and extracting, as a share of compiling memcached twice.
pub(super) fn measure_share(workspace: &Workspace, log: &Log) -> Result<Vec<Measurement>, Failure> {
    let source = memcached::prepare_source(workspace, log)?;
    let directory = workspace.scratch("bench/memcached")?;
    let patch = directory.join("change.patch");
    write_change(&source.join("memcached.h"), &directory, &patch)?;
    let mut build = Command::new(workspace.engraft_binary());
    build
        .args(["--json", "build", "--source"])
        .arg(&source)
        .arg("--patch")
        .arg(&patch)
        .args(["--target", "memcached", "--output"])
        .arg(directory.join("bench_fix.lp"))
        .args(["--", "sh", "-c", "make clean && make memcached"]);
    let answer = run(&mut build, log)?;
    let compiling = number(&answer, "/seconds/compiling")?;
    let comparing = number(&answer, "/seconds/comparing")?;
    let share = comparing / compiling * 100.0;
    let mut measurements = vec![
        Measurement::new(
            "memcached: comparing and extracting / compiling twice",
            share,
            "%",
        )
        .below(5.0),
    ];
    measurements.extend(count_objects("memcached", &answer)?);
    Ok(measurements)
}

/// A constant in a header that every object includes and few use.
fn write_change(file: &Path, directory: &Path, patch: &Path) -> Result<(), Failure> {
    let text = fs::read_to_string(file).context(format!("reading {}", file.display()))?;
    let old = "#define REALTIME_MAXDELTA 60*60*24*30";
    if !text.contains(old) {
        return Err(Failure::new(format!("{} has no {old}", file.display())));
    }
    for (tree, text) in [
        ("a", &text),
        (
            "b",
            &text.replace(old, "#define REALTIME_MAXDELTA 60*60*24*31"),
        ),
    ] {
        fs::create_dir_all(directory.join(tree)).context("a tree for a patch")?;
        fs::write(directory.join(tree).join("memcached.h"), text).context("writing a source")?;
    }
    let mut diff = Command::new("diff");
    diff.args(["-u", "a/memcached.h", "b/memcached.h"])
        .current_dir(directory);
    let difference = diff.output().context("diff")?.stdout;
    fs::write(patch, difference).context("writing a patch")
}

/// Seconds for a tree of many objects, one of which is changed.
pub(super) fn measure_tree(workspace: &Workspace, log: &Log) -> Result<Vec<Measurement>, Failure> {
    let directory = workspace.scratch("bench/tree")?;
    let (before, after) = (directory.join("before"), directory.join("after"));
    compile_tree(&before, log)?;
    shell::run(
        Command::new("rm")
            .args(["-rf", "after"])
            .current_dir(&directory),
        log,
    )?;
    shell::run(
        Command::new("cp")
            .args(["-a", "before", "after"])
            .current_dir(&directory),
        log,
    )?;
    let source = after.join("unit_0.c");
    fs::write(&source, write_unit(0, 5)).context("changing a source")?;
    compile(&after, &["unit_0.c".to_owned()], log)?;
    link(&after, log)?;
    let mut build = Command::new(workspace.engraft_binary());
    build
        .args(["--json", "build", "--pre"])
        .arg(&before)
        .arg("--post")
        .arg(&after)
        .args(["--target", "program", "--output"])
        .arg(directory.join("bench_fix.lp"));
    let answer = run(&mut build, log)?;
    let what = format!("{OBJECTS} objects");
    let mut measurements = vec![
        Measurement::new(
            format!("{what}: comparing and extracting"),
            number(&answer, "/seconds/comparing")?,
            "s",
        )
        .below(3.0),
    ];
    let mut counts = count_objects(&what, &answer)?;
    // A unit uses the next one, and nothing else.
    if let Some(parsed) = counts.last_mut() {
        parsed.below = Some(2.0);
    }
    measurements.extend(counts);
    Ok(measurements)
}

/// How many objects there are, how many files differ, and that of the others only those were
/// parsed whose functions and variables the changed code uses.
fn count_objects(what: &str, answer: &Value) -> Result<Vec<Measurement>, Failure> {
    let count = |name: &str| number(answer, &format!("/report/objects/{name}"));
    let unchanged = count("parsed")? - count("differing")?;
    Ok(vec![
        Measurement::new(format!("{what}: linked"), count("linked")?, "objects"),
        Measurement::new(format!("{what}: differing"), count("differing")?, "objects"),
        Measurement::new(
            format!("{what}: parsed although unchanged"),
            unchanged,
            "objects",
        ),
    ])
}

/// Compiles and links, unless that has been done.
fn compile_tree(tree: &Path, log: &Log) -> Result<(), Failure> {
    if tree.join("program").exists() {
        return Ok(());
    }
    fs::create_dir_all(tree).context("a tree")?;
    let mut names = Vec::new();
    for unit in 0..OBJECTS {
        let name = format!("unit_{unit}.c");
        fs::write(tree.join(&name), write_unit(unit, 3)).context("writing a source")?;
        names.push(name);
    }
    for batch in names.chunks(BATCH) {
        compile(tree, batch, log)?;
    }
    link(tree, log)
}

/// A few functions and variables of its own, and a call of the next unit.
fn write_unit(unit: u32, factor: u32) -> String {
    let next = unit + 1;
    let mut text = String::new();
    for function in 0..5 {
        let number = unit * 5 + function;
        let _ = writeln!(
            text,
            "static int count_{function};\n\
             __attribute__((noinline)) int work_{unit}_{function}(int x)\n\
             {{\n\tcount_{function} += x;\n\treturn x * {factor} + {number};\n}}"
        );
    }
    let last = next == OBJECTS;
    if !last {
        let _ = writeln!(text, "int unit_{next}(int x);");
    }
    let call = if last {
        "x".to_owned()
    } else {
        format!("unit_{next}(x)")
    };
    let _ = writeln!(
        text,
        "int unit_{unit}(int x)\n{{\n\treturn work_{unit}_0(x) + {call};\n}}"
    );
    if unit == 0 {
        text.push_str("int main(int argc, char **argv)\n{\n\treturn unit_0(argc) & 1;\n}\n");
    }
    text
}

fn compile(tree: &Path, names: &[String], log: &Log) -> Result<(), Failure> {
    let mut gcc = Command::new("gcc");
    gcc.args(["-O1", "-g", "-ffunction-sections", "-fdata-sections", "-c"])
        .args(names)
        .current_dir(tree);
    shell::run(&mut gcc, log)
}

fn link(tree: &Path, log: &Log) -> Result<(), Failure> {
    let mut gcc = Command::new("gcc");
    gcc.args(["-o", "program"])
        .args((0..OBJECTS).map(|unit| PathBuf::from(format!("unit_{unit}.o"))))
        .current_dir(tree);
    shell::run(&mut gcc, log)
}

fn run(command: &mut Command, log: &Log) -> Result<Value, Failure> {
    let text = shell::read(command, log)?;
    let first = text.lines().next().unwrap_or_default();
    serde_json::from_str(first).context(format!("engraft answers {text:?}"))
}

fn number(answer: &Value, pointer: &str) -> Result<f64, Failure> {
    let value = answer.pointer(pointer).and_then(Value::as_f64);
    value.ok_or_else(|| Failure::new(format!("no {pointer} in {answer}")))
}
