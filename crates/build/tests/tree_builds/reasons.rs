//! Why a function is in the patch, where the source tells.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use engraft_build::{
    Built, FinishedRequest, ModuleRequest, ObjectPair, Reason, Sources, build_module, find_both,
};

use crate::project::Project;

const SOURCE: &str = "\
#include \"code.h\"

static __attribute__((noinline)) int area(const struct box *box)
{
\treturn box->width;
}

int own(int x)
{
\treturn x + 1;
}

int inlines(int x)
{
\treturn helper(x) * 3;
}

int inlines_deeply(int x)
{
\treturn outer(x) * 5;
}

int calls(const struct box *box)
{
\treturn area(box) + 7;
}

int expands(int x)
{
\treturn x * FACTOR;
}

int unchanged(int x)
{
\treturn x;
}
";

const HEADER: &str = "\
#define FACTOR 3
extern volatile int seen;
struct box { int width, height, depth; };
static inline int helper(int x)
{
\treturn seen = x + 2;
}
static inline int outer(int x) { return helper(x) + 11; }
";

const MAIN: &str = "\
#include \"code.h\"
int own(int), inlines(int), inlines_deeply(int), calls(const struct box *), expands(int);
int unchanged(int);
volatile int seen;
int main(int argc, char **argv)
{
\tstruct box box = { argc, argc, argc };
\tif (!argv)
\t\treturn 1;
\treturn own(1) + inlines(1) + inlines_deeply(1) + calls(&box) + expands(1) + unchanged(1);
}
";

const FLAGS: &str = "-g -O2 -ffunction-sections -fdata-sections";

fn project() -> Project {
    Project::new()
        .file("code.c", SOURCE)
        .file("code.h", HEADER)
        .file("main.c", MAIN)
        .patch("code.c", "x + 1", "x +\n\t\t2")
        .patch("code.h", "FACTOR 3", "FACTOR 4")
        .patch("code.h", "x + 2", "x - 2")
        .patch("code.c", "box->width;", "box->width * box->height;")
}

fn reasons(before: &Built, after: &Built, project: &Project) -> BTreeMap<String, Reason> {
    let report = build_module(ModuleRequest {
        objects: ObjectPair::of_builds(before, after),
        sources: Some(Sources::of_builds(before, after)),
        library: None,
        hooks: &[],
        hook_flags: &[],
        replace_set: 0,
        made_for: None,
        output: &project.path("fix.lp"),
    });
    let replaced = report.expect("a module").replaced.into_iter();
    replaced
        .map(|function| (function.name, function.reason))
        .collect()
}

fn expected() -> BTreeMap<String, Reason> {
    let reasons = [
        ("own", Reason::Changed),
        ("area.isra.0", Reason::Changed),
        ("inlines", Reason::Inlined("helper".to_owned())),
        ("inlines_deeply", Reason::Inlined("helper".to_owned())),
        ("calls", Reason::Callee("area".to_owned())),
        ("expands", Reason::Surroundings),
    ];
    let reasons = reasons.into_iter();
    reasons
        .map(|(name, reason)| (name.to_owned(), reason))
        .collect()
}

#[test]
fn of_a_patched_tree() {
    let project = project();
    let command = format!("gcc {FLAGS} -c code.c main.c && gcc code.o main.o -o program");
    let (before, after) = project
        .build("program", &["sh", "-c", &command])
        .expect("builds");
    assert_eq!(reasons(&before, &after, &project), expected());
}

#[test]
fn of_finished_trees() {
    let project = project();
    for (tree, patches) in [("pre", 0), ("post", 4)] {
        let tree = project.path(tree);
        fs::create_dir(&tree).expect("tree");
        for name in ["code.c", "code.h", "main.c"] {
            fs::copy(project.path("source").join(name), tree.join(name)).expect("copied");
        }
        let mut script = String::new();
        for patch in 1..=patches {
            script += &format!("patch -p1 < ../{patch}.patch && ");
        }
        script += &format!("gcc {FLAGS} -c code.c main.c && gcc code.o main.o -o program");
        let mut shell = Command::new("sh");
        shell.args(["-c", &script]).current_dir(&tree);
        let done = shell.output().expect("a shell");
        assert!(done.status.success(), "{done:?}");
    }
    let (before, after) = find_both(&FinishedRequest {
        pre: project.path("pre"),
        post: project.path("post"),
        target: "program".into(),
        work: project.path("work"),
    })
    .expect("found");
    assert_eq!(reasons(&before, &after, &project), expected());
}
