//! The fixes: diffs of the server's source, and the patch modules that are built from them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use engraft_build::{ModuleRequest, ObjectPair, Sources, TreeRequest, build_both, build_module};

use super::server;
use crate::build::{self, Bar};
use crate::failure::Failure;

const DIFFS: [(&str, &str); 2] = [
    ("fix1.patch", include_str!("program/fix1.patch")),
    ("fix2.patch", include_str!("program/fix2.patch")),
];

/// All modules of the story, in the order of their first appearance.
pub(super) const FIXES: [Fix; 3] = [FIX1, FIX12, FIX2];
pub(super) const FIX1: Fix = Fix {
    module: "demo_fix1",
    diffs: &["fix1.patch"],
    functions: &["handle_request", "price_order"],
};
pub(super) const FIX12: Fix = Fix {
    module: "demo_fix12",
    diffs: &["fix1.patch", "fix2.patch"],
    functions: &["handle_request", "price_order", "format_amount"],
};
pub(super) const FIX2: Fix = Fix {
    module: "demo_fix2",
    diffs: &["fix2.patch"],
    functions: &["handle_request", "format_amount"],
};

/// A cumulative patch module.
#[derive(Clone, Copy)]
pub(super) struct Fix {
    pub(super) module: &'static str,
    pub(super) diffs: &'static [&'static str],
    /// What it must replace, or the story is another one.
    functions: &'static [&'static str],
}

impl Fix {
    pub(super) fn file(self, directory: &Path) -> PathBuf {
        directory.join(self.module).with_extension("lp")
    }

    pub(super) fn describe(self) -> String {
        format!(
            "{} from {}: {}",
            self.module,
            self.diffs.join(" and "),
            self.functions.join(", ")
        )
    }

    /// Builds the module into `directory`, as `engraft build` does.
    pub(super) fn build(self, source: &Path, directory: &Path, quiet: bool) -> Result<(), Failure> {
        let work = directory.join(self.module);
        fs::create_dir(&work)
            .map_err(|error| Failure::new(format!("create {}: {error}", work.display())))?;
        let request = TreeRequest {
            source: source.to_owned(),
            patches: self.diffs.iter().map(|name| directory.join(name)).collect(),
            strip: 1,
            command: server::COMMAND.map(Into::into).to_vec(),
            target: server::PROGRAM.into(),
            work,
            wrapper: build::find_wrapper()?,
        };
        let bar = Bar::new(quiet);
        let (before, after) =
            build_both(&request, &bar).map_err(|error| Failure::new(error.to_string()))?;
        let report = build_module(ModuleRequest {
            objects: ObjectPair::of_builds(&before, &after),
            sources: Some(Sources::of_builds(&before, &after)),
            library: None,
            hooks: &[],
            hook_flags: &[],
            replace_set: 0,
            made_for: None,
            output: &self.file(directory),
        })
        .map_err(build::describe)?;
        let mut replaced: Vec<&str> = report.replaced.iter().map(|f| &*f.name).collect();
        let mut expected = self.functions.to_vec();
        replaced.sort_unstable();
        expected.sort_unstable();
        if report.refusals.is_empty() && replaced == expected {
            return Ok(());
        }
        Err(Failure::new(format!(
            "{}: the compiler changes {replaced:?} for this fix instead of {expected:?}",
            self.module
        ))
        .with_help("name another C compiler in CC"))
    }
}

/// Writes the diffs into a directory.
pub(super) fn write_diffs(directory: &Path) -> io::Result<()> {
    DIFFS
        .iter()
        .try_for_each(|(name, text)| fs::write(directory.join(name), text))
}
