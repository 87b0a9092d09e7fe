//! The command line.

use std::convert::Infallible;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::target::Target;
use crate::wait::{OnTimeout, Waiting};

/// Replaces functions of a running program, atomically and without restarting it
#[derive(Debug, Parser)]
#[command(name = "engraft", version, disable_help_subcommand = true)]
pub(crate) struct Arguments {
    /// Print JSON, one object per line
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Build a patch module from patches for a program's source
    Build(BuildArguments),
    /// Compile a livepatch written in C or C++ into a patch module
    Cc(CcArguments),
    /// Say what a patch module changes and needs
    Inspect {
        /// The patch module
        file: PathBuf,
    },
    /// Say whether a patch module would apply and what would block it; changes nothing
    Check(CheckArguments),
    /// Load a patch module and enable its patch
    Load(LoadArguments),
    /// Enable a loaded patch, reverse its disabling, or go on with an unfinished enabling
    Enable(SwitchArguments),
    /// Disable a patch, reverse its enabling, or go on with an unfinished disabling
    Disable(SwitchArguments),
    /// Remove the module of a patch that is disabled or replaced
    Unload {
        /// Name of the patch
        #[arg(value_parser = read_name)]
        name: String,
        #[command(flatten)]
        target: Target,
    },
    /// Complete the running transition although threads still use the code to be left
    Force {
        #[command(flatten)]
        target: Target,
    },
    /// List the patches of a process or the kernel
    List {
        #[command(flatten)]
        target: Target,
    },
    /// Show patches, objects, functions, and the running transition with what holds it up
    Status {
        #[command(flatten)]
        target: Target,
    },
    /// Keep a livepatch of the kernel to be loaded again whenever that kernel is booted
    Pin(PinArguments),
    /// Forget the livepatch that is pinned for a kernel; what is loaded stays loaded
    Unpin {
        /// The kernel's own livepatch, for which there are pins
        #[arg(long, required = true)]
        kernel: bool,
        /// The kernel release whose pin is meant, instead of the running one
        #[arg(long, value_name = "RELEASE")]
        release: Option<String>,
    },
    /// Print the livepatch log of a process or the kernel
    Log(LogArguments),
    /// Let gdb or perf name patched functions and unwind through them
    Symbols(SymbolsArguments),
    /// Patch a bundled server under load, step by step
    Demo {
        /// Draw the transition of the first replace, a row for each thread
        #[arg(long, value_name = "FILE.svg")]
        timeline: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct BuildArguments {
    /// The source tree that the running program was built from
    #[arg(
        long,
        value_name = "DIR",
        required_unless_present = "pre",
        requires = "command"
    )]
    pub(crate) source: Option<PathBuf>,
    /// A patch to the source; several make one cumulative module
    #[arg(long = "patch", value_name = "FILE", conflicts_with = "pre")]
    pub(crate) patches: Vec<PathBuf>,
    /// Leading components to remove from file names in the patches
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with = "pre")]
    pub(crate) strip: u32,
    /// Instead of a source: a tree without the change, in which the target has been built
    #[arg(long, value_name = "DIR", requires = "post", conflicts_with_all = ["source", "command"])]
    pub(crate) pre: Option<PathBuf>,
    /// The same tree with the change, built as well
    #[arg(long, value_name = "DIR", requires = "pre")]
    pub(crate) post: Option<PathBuf>,
    /// What the build command makes: the executable or library, relative to the source tree
    #[arg(long, value_name = "PATH")]
    pub(crate) target: PathBuf,
    /// C file with callbacks and shadow variable code to go into the module
    #[arg(long = "hook", value_name = "FILE.c")]
    pub(crate) hooks: Vec<PathBuf>,
    /// Search this directory for headers of hooks
    #[arg(short = 'I', value_name = "DIR", requires = "hooks")]
    pub(crate) include: Vec<PathBuf>,
    /// Define a macro for hooks
    #[arg(short = 'D', value_name = "NAME[=VALUE]", requires = "hooks")]
    pub(crate) define: Vec<String>,
    /// Replace only patches of this set, and be replaced only by them
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) replace_set: u32,
    /// Bind the module to the build-id of this executable or library
    #[arg(long = "for", value_name = "PATH")]
    pub(crate) made_for: Option<PathBuf>,
    /// The patch module to write; its name without extension is the module's name
    #[arg(short, long, value_name = "FILE.lp")]
    pub(crate) output: PathBuf,
    /// The project's own build command, run in a copy of the source tree
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct CcArguments {
    /// The livepatch's source files
    #[arg(required = true, value_name = "FILE")]
    pub(crate) sources: Vec<PathBuf>,
    /// The patch module to write; its name without extension is the module's name
    #[arg(short, long, value_name = "FILE.lp")]
    pub(crate) output: PathBuf,
    /// Make the module for this build of an executable or library, and no other; repeatable
    #[arg(long = "for", value_name = "PATH")]
    pub(crate) made_for: Vec<PathBuf>,
    /// Search this directory for headers
    #[arg(short = 'I', value_name = "DIR")]
    pub(crate) include: Vec<PathBuf>,
    /// Define a macro
    #[arg(short = 'D', value_name = "NAME[=VALUE]")]
    pub(crate) define: Vec<String>,
    /// Further flags for the compiler
    #[arg(last = true, value_name = "FLAG")]
    pub(crate) flags: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct CheckArguments {
    /// The patch module
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) target: Target,
    /// Values of module parameters
    #[arg(value_name = "PARAM=VALUE", value_parser = parse_parameter)]
    pub(crate) parameters: Vec<(String, String)>,
}

#[derive(Debug, Args)]
pub(crate) struct LoadArguments {
    /// The patch module
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) target: Target,
    /// Values of module parameters
    #[arg(value_name = "PARAM=VALUE", value_parser = parse_parameter)]
    pub(crate) parameters: Vec<(String, String)>,
    /// Load the module, but leave its patch disabled
    #[arg(long, conflicts_with_all = ["no_wait", "timeout", "on_timeout"])]
    pub(crate) no_enable: bool,
    /// Draw the transition, a row for each thread
    #[arg(long, value_name = "FILE.svg", conflicts_with_all = ["no_enable", "exe", "kernel"])]
    pub(crate) timeline: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) waiting: WaitArguments,
}

#[derive(Debug, Args)]
pub(crate) struct SwitchArguments {
    /// Name of the patch
    #[arg(value_parser = read_name)]
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) target: Target,
    /// Do not insist on the stack's order, as kernels since 5.1
    #[arg(long)]
    pub(crate) any_order: bool,
    #[command(flatten)]
    pub(crate) waiting: WaitArguments,
}

#[derive(Debug, Args)]
pub(crate) struct WaitArguments {
    /// Return at once; the transition may still be running
    #[arg(long, conflicts_with_all = ["timeout", "on_timeout"])]
    no_wait: bool,
    /// How long the transition may take
    #[arg(long, value_name = "SECS", default_value = "60", value_parser = parse_seconds)]
    timeout: Duration,
    /// What to do with a transition that takes longer
    #[arg(long, value_name = "ACTION", value_enum, default_value = "reverse")]
    on_timeout: OnTimeout,
}

impl WaitArguments {
    pub(crate) fn waiting(&self) -> Waiting {
        Waiting {
            wait: !self.no_wait,
            timeout: self.timeout,
            on_timeout: self.on_timeout,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct PinArguments {
    /// The livepatch module (.ko); it takes the place of what is pinned for the same kernel
    #[arg(
        required_unless_present_any = ["list", "apply", "install_unit"],
        requires = "kernel",
    )]
    pub(crate) file: Option<PathBuf>,
    /// Values of module parameters
    #[arg(value_name = "PARAM=VALUE", value_parser = parse_parameter)]
    pub(crate) parameters: Vec<(String, String)>,
    /// The kernel's own livepatch, for which there are pins
    #[arg(long)]
    kernel: bool,
    /// List what is pinned
    #[arg(long, conflicts_with_all = ["file", "apply", "install_unit"])]
    pub(crate) list: bool,
    /// Load what is pinned for the running kernel, if it is not loaded: what the unit does
    #[arg(long, conflicts_with_all = ["file", "install_unit"])]
    pub(crate) apply: bool,
    /// Write and enable the systemd unit that applies pins at boot
    #[arg(long, conflicts_with = "file")]
    pub(crate) install_unit: bool,
}

#[derive(Debug, Args)]
pub(crate) struct LogArguments {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Go on printing new lines until the process ends
    #[arg(long)]
    pub(crate) follow: bool,
    /// Print debug lines too
    #[arg(long)]
    pub(crate) debug: bool,
}

#[derive(Debug, Args)]
pub(crate) struct SymbolsArguments {
    #[command(flatten)]
    pub(crate) target: Target,
    #[command(flatten)]
    pub(crate) reader: SymbolReader,
}

/// Who is to see patches.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct SymbolReader {
    /// Write a symbol file for gdb
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Make perf see patches in what it has recorded of the process
    #[arg(long, value_name = "PERF.DATA")]
    pub(crate) perf: Option<PathBuf>,
}

/// A patch's name as it is typed: `-` is as good as `_`, as for rmmod(8).
#[expect(clippy::unnecessary_wraps, reason = "clap wants a result")]
fn read_name(text: &str) -> Result<String, Infallible> {
    Ok(text.replace('-', "_"))
}

fn parse_parameter(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("a parameter is written NAME=VALUE".to_owned()),
    }
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text
        .parse()
        .map_err(|_| "a number of seconds is needed".to_owned())?;
    Duration::try_from_secs_f64(seconds)
        .ok()
        .filter(|duration| *duration <= Duration::from_secs(1_000_000))
        .ok_or_else(|| "seconds from 0 to 1000000 are possible".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clap_accepts_the_definition() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }

    #[test]
    fn parameters_need_a_name() {
        assert_eq!(
            parse_parameter("a=b=c"),
            Ok(("a".to_owned(), "b=c".to_owned()))
        );
        assert_eq!(parse_parameter("a="), Ok(("a".to_owned(), String::new())));
        assert!(parse_parameter("=b").is_err());
        assert!(parse_parameter("a").is_err());
    }

    #[test]
    fn seconds_are_bounded() {
        assert_eq!(parse_seconds("0.25"), Ok(Duration::from_millis(250)));
        for bad in ["-1", "nan", "inf", "1e30", "1000001", "soon", ""] {
            assert!(parse_seconds(bad).is_err(), "{bad} was accepted");
        }
    }
}
