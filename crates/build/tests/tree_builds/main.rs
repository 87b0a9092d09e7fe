//! Small source trees, built before and after patches.

mod compilers;
mod finished;
mod lines;
mod make;
mod objects;
mod patches;
mod project;
mod reasons;
mod refusals;
mod systems;
