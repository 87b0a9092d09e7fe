//! Random scenarios on the simulator. `ENGRAFT_SIM_SEED` is the first seed,
//! `ENGRAFT_SIM_COUNT` the number of scenarios.

use engraft_core::sim::run_seed;

fn number(variable: &str, default: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{variable}={text} is not a number")),
        Err(_) => default,
    }
}

#[test]
fn every_rule_holds_in_random_scenarios() {
    let default = if cfg!(debug_assertions) {
        20_000
    } else {
        100_000
    };
    let first = number("ENGRAFT_SIM_SEED", 1);
    let count = number("ENGRAFT_SIM_COUNT", default);
    for seed in first..first.saturating_add(count) {
        if let Err(report) = run_seed(seed) {
            panic!("{report}\nrepeat with ENGRAFT_SIM_SEED={seed} ENGRAFT_SIM_COUNT=1");
        }
    }
}
