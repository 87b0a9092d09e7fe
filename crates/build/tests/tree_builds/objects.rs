//! What tests ask of built objects.

use std::fs;
use std::path::Path;

use engraft_build::{Built, BuiltObject};
use object::{Object as _, ObjectSection as _};

pub(crate) fn names(built: &Built) -> Vec<&str> {
    built.objects.iter().map(|object| &*object.name).collect()
}

pub(crate) fn named<'a>(built: &'a Built, name: &str) -> &'a BuiltObject {
    built
        .objects
        .iter()
        .find(|object| object.name == name)
        .unwrap_or_else(|| panic!("'{name}' is not among {:?}", names(built)))
}

/// Names of objects whose content differs. Both builds must have the same objects.
pub(crate) fn changed<'a>(before: &'a Built, after: &Built) -> Vec<&'a str> {
    assert_eq!(
        names(before),
        names(after),
        "the same objects in both builds"
    );
    before
        .objects
        .iter()
        .zip(&after.objects)
        .filter(|(before, after)| before.path != after.path)
        .map(|(before, _)| &*before.name)
        .collect()
}

/// The content of a section; nothing if there is none.
pub(crate) fn section(file: &Path, name: &str) -> Option<Vec<u8>> {
    let content = fs::read(file).expect("an object");
    let file = object::File::parse(&*content).expect("an ELF file");
    let section = file.section_by_name(name)?;
    Some(section.data().expect("its content").to_vec())
}

pub(crate) fn has_section(file: &Path, name: &str) -> bool {
    section(file, name).is_some()
}
