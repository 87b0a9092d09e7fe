//! Compares the kernel's livepatch with engraft's, scenario by scenario. It must not know what a
//! scenario should lead to.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use clap::Parser;
use engraft_conformance::kernel::{Kernel, KernelSide};
use engraft_conformance::named::Named;
use engraft_conformance::process::ProcessSide;
use engraft_conformance::{Difference, commands, compare, named, random, run, shrink};
use engraft_guest::{Context, Failure, Outcome, Step};

/// The same livepatches on a real kernel and on a process
#[derive(Debug, Parser)]
struct Arguments {
    /// Version of the kernel, whose headers are installed
    #[arg(long)]
    version: String,
    /// Its bootable image
    #[arg(long)]
    image: PathBuf,
    /// The static program that runs in the guest
    #[arg(long)]
    guest: PathBuf,
    /// The command `engraft`, which is run in the guest
    #[arg(long)]
    engraft: PathBuf,
    /// Number of random scenarios
    #[arg(long, default_value_t = 100)]
    count: u64,
    /// Seed of the first random scenario; the time by default
    #[arg(long)]
    seed: Option<u64>,
    /// Only named scenarios whose group or name contains this
    #[arg(long)]
    only: Option<String>,
}

/// After so many random scenarios a line tells how far it has come.
const PROGRESS: u64 = 100;

fn main() -> ExitCode {
    match try_main(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// The group of commands to the kernel, which are compared with what they must do.
const COMMANDS: &str = "engraft --kernel";

/// How a group of scenarios went.
#[derive(Debug, Default)]
struct Group {
    equal: u32,
    different: u32,
    /// Of their steps: how many there were, were refused, left a transition held up, let an object
    /// come or go that a patch names.
    steps: usize,
    refused: usize,
    held_up: usize,
    moved: usize,
}

impl Group {
    fn total(&self) -> u32 {
        self.equal + self.different
    }

    fn count(&mut self, outcomes: &[Outcome]) {
        self.steps += outcomes.len();
        self.refused += outcomes.iter().filter(|outcome| outcome.errno != 0).count();
        let held_up = outcomes
            .iter()
            .filter(|outcome| !outcome.blockers.is_empty());
        self.held_up += held_up.count();
        let moves = |line: &String| line.contains("loading module '");
        let moved = outcomes
            .iter()
            .filter(|outcome| outcome.log.iter().any(moves));
        self.moved += moved.count();
    }
}

struct Sides {
    kernel: KernelSide,
    process: ProcessSide,
}

impl Sides {
    fn compare(&mut self, steps: &[Step]) -> Result<Option<Difference>, Failure> {
        self.compare_in(steps, &mut Group::default())
    }

    /// The same, counting the steps.
    fn compare_in(
        &mut self,
        steps: &[Step],
        group: &mut Group,
    ) -> Result<Option<Difference>, Failure> {
        let process = run(&mut self.process, steps)?;
        let kernel = run(&mut self.kernel, steps)?;
        group.count(&kernel);
        Ok(compare(steps, &kernel, &process))
    }
}

fn try_main(arguments: &Arguments) -> Result<bool, Failure> {
    let work = tempfile::tempdir().map_err(|error| Failure::new(error.to_string()))?;
    let started = Instant::now();
    let kernel = Kernel {
        version: arguments.version.clone(),
        image: arguments.image.clone(),
        guest: arguments.guest.clone(),
        engraft: arguments.engraft.clone(),
    };
    let mut sides = Sides {
        kernel: KernelSide::start(&kernel, work.path())?,
        process: ProcessSide::start(work.path())?,
    };
    println!(
        "Linux {} (ready after {:.1} s)",
        kernel.version,
        started.elapsed().as_secs_f64()
    );
    let mut groups: BTreeMap<&str, Group> = BTreeMap::new();
    let wanted = |named: &Named| {
        arguments.only.as_ref().is_none_or(|only| {
            named.group.contains(only.as_str()) || named.name.contains(only.as_str())
        })
    };
    for scenario in named::all().into_iter().filter(wanted) {
        let group = groups.entry(scenario.group).or_default();
        match sides.compare_in(&scenario.steps, group)? {
            None => group.equal += 1,
            Some(difference) => {
                group.different += 1;
                println!("\n{}: {}: {difference}", scenario.group, scenario.name);
                print_steps(&scenario.steps);
            }
        }
    }
    if wanted_group(arguments, COMMANDS) {
        let group = groups.entry(COMMANDS).or_default();
        let (wrong, count) = commands::check(&mut sides.kernel)?;
        group.different += wrong.len() as u32;
        group.equal += count.saturating_sub(group.different);
        wrong
            .iter()
            .for_each(|wrong| println!("\n{COMMANDS}: {wrong}"));
    }
    if arguments.only.is_none() {
        let group = groups.entry("random").or_default();
        compare_random(&mut sides, arguments, group)?;
    }
    print_table(&groups);
    print_sum(&groups, &kernel.version);
    Ok(groups.values().all(|group| group.different == 0))
}

fn wanted_group(arguments: &Arguments, group: &str) -> bool {
    let only = arguments.only.as_ref();
    only.is_none_or(|only| group.contains(only.as_str()))
}

fn compare_random(
    sides: &mut Sides,
    arguments: &Arguments,
    group: &mut Group,
) -> Result<(), Failure> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let first = arguments.seed.unwrap_or(now.as_secs());
    println!("{} random scenarios, seeds from {first}", arguments.count);
    for (number, seed) in (0..arguments.count).map(|number| (number, first + number)) {
        if number > 0 && number.is_multiple_of(PROGRESS) {
            let different = group.different;
            eprintln!(
                "{number} of {} random scenarios, {different} different",
                arguments.count
            );
        }
        let steps = random::generate(seed);
        let difference = sides.compare_in(&steps, group);
        if difference.context(format!("seed {seed}"))?.is_none() {
            group.equal += 1;
            continue;
        }
        group.different += 1;
        let smallest = shrink::shrink(steps, &mut |steps| Ok(sides.compare(steps)?.is_some()))?;
        match sides.compare(&smallest)? {
            Some(difference) => println!("\nseed {seed}: {difference}"),
            None => println!("\nseed {seed}: not always the same"),
        }
        print_steps(&smallest);
    }
    Ok(())
}

fn print_steps(steps: &[Step]) {
    for (number, step) in (1..).zip(steps) {
        println!("  {number:2} {step}");
    }
}

fn print_table(groups: &BTreeMap<&str, Group>) {
    let heads = [
        "scenarios",
        "equal",
        "different",
        "steps",
        "refused",
        "held up",
        "moved",
    ];
    print!("\n{:<18}", "group");
    heads.iter().for_each(|head| print!("{head:>11}"));
    println!();
    for (name, group) in groups {
        print!("{name:<18}");
        for count in [group.total(), group.equal, group.different] {
            print!("{count:>11}");
        }
        for count in [group.steps, group.refused, group.held_up, group.moved] {
            print!("{count:>11}");
        }
        println!();
    }
}

/// The last line: all groups together.
fn print_sum(groups: &BTreeMap<&str, Group>, version: &str) {
    let sum = |count: fn(&Group) -> u32| groups.values().map(count).sum::<u32>();
    println!(
        "Linux {version}: {} scenarios, {} equal, {} different",
        sum(Group::total),
        sum(|group| group.equal),
        sum(|group| group.different),
    );
}
