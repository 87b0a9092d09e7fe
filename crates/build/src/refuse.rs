//! Changes that a running program cannot follow.

use std::fmt;

use serde::Serialize;

use crate::compare::{ObjectChange, VariableChange, VariableDifference};
use crate::error::BuildError;
use crate::object::{SectionKind, SymbolKind, Target};
use crate::program::Program;
use crate::types::find_layout_changes;

/// A change that no patch module can bring into a running program by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// Object in which it is.
    pub object: String,
    /// The function, variable or section.
    pub name: String,
    /// Why it cannot be followed.
    pub reason: String,
    /// The way out.
    pub help: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: '{}': {}; {}",
            self.object, self.name, self.reason, self.help
        )
    }
}

/// Tables of virtual methods, for classes, their construction and their virtual bases (Itanium
/// C++ ABI).
const VIRTUAL_TABLES: [&str; 3] = ["_ZTV", "_ZTC", "_ZTT"];

const BY_CALLBACK: &str = "change the running program's value in a callback (--hook), or keep new data in a shadow variable";

/// Everything in the changes that must be refused.
///
/// # Errors
///
/// When an object cannot be read.
pub(crate) fn find_refusals(
    program: &Program,
    changes: &[ObjectChange],
) -> Result<Vec<Refusal>, BuildError> {
    let mut refusals = Vec::new();
    for change in changes {
        let after = program.after(change.object)?;
        let mut refuse = |name: &str, reason: String, help: &str| {
            refusals.push(Refusal {
                object: after.name.clone(),
                name: name.to_owned(),
                reason,
                help: help.to_owned(),
            });
        };
        for variable in &change.comparison.variables {
            let (reason, help) = explain_variable(variable);
            refuse(&variable.name, reason, help);
        }
        for section in &change.comparison.constants {
            let name = after.title(*section);
            if VIRTUAL_TABLES.iter().any(|prefix| name.starts_with(prefix)) {
                let reason = "the virtual methods of the class are others, and objects of it have \
                              the old table";
                let help = "leave the virtual methods as they are, and do what is new in a method \
                            that is not virtual";
                refuse(name, reason.to_owned(), help);
            }
        }
        for name in &change.comparison.moved {
            let reason =
                "it stands for another function than before, and callers are bound to that";
            let help = "change the function that it stood for";
            refuse(name, reason.to_owned(), help);
        }
        let mut others: Vec<(&str, SectionKind)> = Vec::new();
        for (name, kind) in &change.comparison.others {
            let name = match kind {
                SectionKind::LinkTimeCode => &*after.name,
                _ => name,
            };
            if !others.contains(&(name, *kind)) {
                others.push((name, *kind));
            }
        }
        for (name, kind) in others {
            let (reason, help) = match kind {
                SectionKind::LinkTimeCode => (
                    "its code is made at link time (-flto)",
                    "build without -flto, if the running program was built so",
                ),
                SectionKind::Startup => (
                    "the functions that run at start are others, and the program has started",
                    "run what is new in a post_patch callback (--hook)",
                ),
                _ => (
                    "the linker collects it for code that goes through all of it",
                    "replace the code that uses it by hand, in a livepatch in C",
                ),
            };
            refuse(name, reason.to_owned(), help);
        }
        for section in change.comparison.changed.keys() {
            let Some(symbol) = after.first_symbol(*section) else {
                continue;
            };
            let name = &after.symbols[symbol].name;
            if after.symbols[symbol].kind == SymbolKind::Ifunc {
                let reason = "it has chosen an implementation already, and is not asked again";
                refuse(name, reason.to_owned(), "patch the implementations");
            }
            let starts = after.sections.iter().any(|other| {
                other.kind == SectionKind::Startup
                    && other.relocations.iter().any(|relocation| {
                        matches!(after.target(relocation),
                            Target::Place { section: target, .. } if target == *section)
                    })
            });
            if starts {
                let reason = "it is a constructor or destructor, and constructors have run";
                let help = "run what is new in a post_patch callback (--hook)";
                refuse(name, reason.to_owned(), help);
            }
        }
    }
    // Where no code differs, nobody meets a new layout.
    if changes.iter().any(|change| !change.comparison.is_empty()) {
        refusals.extend(refuse_layouts(program, changes));
    }
    Ok(refusals)
}

fn refuse_layouts(program: &Program, changes: &[ObjectChange]) -> Vec<Refusal> {
    let (layouts, unknown) = find_layout_changes(program, changes);
    let layouts = layouts.into_iter().map(|change| Refusal {
        object: program.name(change.object).to_owned(),
        reason: format!(
            "its layout changes: {}; the running program has objects of the old layout, used by {}",
            change.describe_differences(),
            change.users
        ),
        help: format!(
            "keep new fields in shadow variables, or convert the objects in a callback (--hook) \
             that says MODULE_INFO(handles, \"{}\")",
            change.name
        ),
        name: change.name,
    });
    let unknown = unknown.into_iter().map(|(object, error)| Refusal {
        object: program.name(object).to_owned(),
        name: program.name(object).to_owned(),
        reason: format!("{error}, so changed data layouts cannot be seen"),
        help: error.help().unwrap_or("compile with -g").to_owned(),
    });
    layouts.chain(unknown).collect()
}

fn explain_variable(variable: &VariableChange) -> (String, &'static str) {
    match variable.what {
        VariableDifference::Size(before, after) => (
            format!("its size changes from {before} to {after} bytes"),
            BY_CALLBACK,
        ),
        VariableDifference::InitialValue => ("its initial value changes".to_owned(), BY_CALLBACK),
        VariableDifference::Label => (
            "it holds the address of a label in a function that changes".to_owned(),
            "keep addresses of labels in a table of nothing else",
        ),
        VariableDifference::NewThreadLocal => (
            "it is a new thread-local variable, which running threads have no room for".to_owned(),
            "keep it in a shadow variable (klp_shadow_get_or_alloc)",
        ),
    }
}
