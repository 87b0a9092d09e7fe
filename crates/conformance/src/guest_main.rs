//! The first and only program of the guest.

fn main() {
    let error = engraft_conformance::guest::serve();
    println!("guest: {error}");
}
