//! The process' program, its libraries, and the livepatches for it.

use std::fs;
use std::path::Path;
use std::process::Command;

use engraft_module::{CompileRequest, compile};

use crate::sources::{self, HEADERS, LIBRARY, PATCHES};
use engraft_guest::{Context, Failure};

/// The program is called what the kernel is called in the log.
pub(super) const PROGRAM: &str = "vmlinux";

/// Builds everything into a directory.
pub(super) fn build(directory: &Path) -> Result<(), Failure> {
    fs::create_dir_all(directory).context(directory.display())?;
    let write = |name: &str, text: &str| {
        let path = directory.join(name);
        fs::write(&path, text).context(path.display())
    };
    for (name, text) in HEADERS {
        write(name, text)?;
    }
    write("program.c", sources::PROGRAM)?;
    write("library.c", LIBRARY)?;
    let gcc = |arguments: &[&str]| {
        let mut command = Command::new("gcc");
        command
            .args(["-O2", "-g"])
            .args(arguments)
            .current_dir(directory);
        let output = command.output().context("gcc")?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        output
            .status
            .success()
            .then_some(())
            .ok_or_else(|| Failure::new(said))
    };
    for object in ["a", "b", "c"] {
        let define = format!("-DOBJECT={object}");
        let library = format!("conf_{object}.so");
        gcc(&[&define, "-fPIC", "-shared", "-o", &library, "library.c"])?;
    }
    let link = [
        "-pthread",
        "-rdynamic",
        "-Wl,-rpath,$ORIGIN",
        "-Wl,--no-as-needed",
        "-o",
        PROGRAM,
        "program.c",
    ];
    // The others come and go.
    gcc(&[&link[..], &["conf_a.so"]].concat())?;
    for (name, text) in PATCHES {
        let source = directory.join(format!("{name}.c"));
        fs::write(&source, text).context(source.display())?;
        compile(&CompileRequest {
            sources: vec![source],
            objects: Vec::new(),
            output: directory.join(format!("{name}.lp")),
            flags: Vec::new(),
            made_for: Vec::new(),
        })
        .context(name)?;
    }
    Ok(())
}
