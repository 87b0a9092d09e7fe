//! The objects that make up the target, found in the records of a build.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use object::{Object as _, ObjectSection as _};

use super::rustc::stable_name;
use super::session::{Link, Part, Parts, Record};
use super::{BuildError, BuiltObject};
use crate::tree::{Scratch, normalize};

/// A target, and the objects that it was linked from.
pub(super) struct Found {
    pub(super) objects: Vec<BuiltObject>,
    pub(super) file: PathBuf,
}

/// Finds what the target was linked from.
pub(super) fn collect(
    records: &[Record],
    scratch: &Scratch,
    target: &Path,
    log: &Path,
) -> Result<Found, BuildError> {
    let compilations = Compilations::of(records);
    if compilations.count == 0 {
        return Err(BuildError::NothingCompiled {
            log: log.to_path_buf(),
        });
    }
    let (file, parts) = find_link(records, scratch, target)?;
    if let Some(object) = &parts.link_time {
        return Err(BuildError::LinkTimeOptimization(relative(scratch, object)));
    }
    let is_ours = |path: &&PathBuf| compilations.sources.contains_key(path.as_path());
    if let Some(outside) = parts.outside.iter().find(is_ours) {
        return Err(BuildError::ObjectOutside(outside.clone()));
    }
    let parts = expand(&parts.objects, &relocatable_links(records), 0);
    if parts.is_empty() {
        return Err(BuildError::NoObjects(target.to_path_buf()));
    }
    refuse_leftovers(&parts, scratch)?;
    let mut names = HashMap::new();
    let objects = parts
        .iter()
        .map(|part| BuiltObject {
            name: name_once(&mut names, name_of(part, scratch)),
            path: part.content.clone(),
            source: compilations
                .source_of(part)
                .map(|source| relative(scratch, &source)),
        })
        .collect();
    Ok(Found { objects, file })
}

/// The target's file, and what is known of the last link that wrote it.
fn find_link<'a>(
    records: &'a [Record],
    scratch: &Scratch,
    target: &Path,
) -> Result<(PathBuf, &'a Parts), BuildError> {
    let wanted = normalize(scratch.tree(), target);
    let links: Vec<&Link> = links(records).filter(|link| !link.is_relocatable).collect();
    let outputs = possible_outputs(&wanted);
    if let Some(link) = links
        .iter()
        .rev()
        .find(|link| outputs.contains(&link.output))
    {
        let parts = link
            .parts
            .as_ref()
            .ok_or_else(|| BuildError::NotListed(target.to_path_buf()))?;
        return Ok((parts.copy.clone(), parts));
    }
    let code = read_code(&wanted);
    let parts = links
        .iter()
        .rev()
        .filter_map(|link| link.parts.as_ref())
        .find(|parts| code.is_some() && read_code(&parts.copy) == code);
    match parts {
        Some(parts) => Ok((parts.copy.clone(), parts)),
        None => Err(BuildError::NotLinked {
            target: target.to_path_buf(),
            linked: list_outputs(&links, scratch),
            exists: wanted.exists(),
        }),
    }
}

/// The names under which the target may have been linked: its own, libtool's, and what it is a
/// symbolic link to.
fn possible_outputs(wanted: &Path) -> Vec<PathBuf> {
    let mut outputs = vec![wanted.to_path_buf()];
    outputs.extend(wanted.canonicalize());
    let hidden: Vec<PathBuf> = outputs
        .iter()
        .filter_map(|path| Some(path.parent()?.join(".libs").join(path.file_name()?)))
        .collect();
    for path in hidden {
        outputs.extend(path.canonicalize());
        outputs.push(path);
    }
    outputs
}

/// The program's code, by which it is known again after it was copied or stripped.
fn read_code(path: &Path) -> Option<Vec<u8>> {
    let content = fs::read(path).ok()?;
    let file = object::File::parse(&*content).ok()?;
    let text = file.section_by_name(".text")?.data().ok()?;
    Some(text.to_vec())
}

fn list_outputs(links: &[&Link], scratch: &Scratch) -> Vec<PathBuf> {
    let mut outputs: Vec<PathBuf> = links
        .iter()
        .filter(|link| link.output.is_file())
        .map(|link| relative(scratch, &link.output))
        .collect();
    outputs.sort();
    outputs.dedup();
    outputs
}

fn links(records: &[Record]) -> impl Iterator<Item = &Link> {
    records.iter().filter_map(|record| match record {
        Record::Link(link) => Some(link),
        Record::Compilation { .. } => None,
    })
}

/// Objects that were linked from others, by their content.
fn relocatable_links(records: &[Record]) -> HashMap<&Path, &[Part]> {
    links(records)
        .filter(|link| link.is_relocatable)
        .filter_map(|link| link.parts.as_ref())
        .map(|parts| (parts.copy.as_path(), parts.objects.as_slice()))
        .collect()
}

/// Replaces objects that were linked from others by these.
fn expand(parts: &[Part], relocatable: &HashMap<&Path, &[Part]>, depth: usize) -> Vec<Part> {
    let mut result = Vec::new();
    for part in parts {
        match relocatable.get(part.content.as_path()) {
            Some(inner) if depth < 32 && !inner.is_empty() => {
                result.extend(expand(inner, relocatable, depth + 1));
            }
            _ => result.push(part.clone()),
        }
    }
    result
}

/// What was compiled from what.
struct Compilations<'a> {
    count: usize,
    /// The last source of each object.
    sources: HashMap<&'a Path, &'a Path>,
    /// Objects by their file names.
    by_name: HashMap<&'a std::ffi::OsStr, Vec<&'a Path>>,
}

impl<'a> Compilations<'a> {
    fn of(records: &'a [Record]) -> Self {
        let mut compilations = Self {
            count: 0,
            sources: HashMap::new(),
            by_name: HashMap::new(),
        };
        for record in records {
            let Record::Compilation { source, object, .. } = record else {
                continue;
            };
            compilations.count += 1;
            let Some(object) = object.as_deref() else {
                continue;
            };
            if compilations.sources.insert(object, source).is_none() {
                let name = object.file_name().unwrap_or_default();
                compilations.by_name.entry(name).or_default().push(object);
            }
        }
        compilations
    }

    /// An archive's member is the object of its name with its content.
    fn source_of(&self, part: &Part) -> Option<PathBuf> {
        if let Some(source) = &part.source {
            return Some(source.clone());
        }
        let Some(member) = &part.member else {
            return self.sources.get(part.file.as_path()).map(PathBuf::from);
        };
        let content = fs::read(&part.content).ok()?;
        let candidates = self.by_name.get(std::ffi::OsStr::new(member))?;
        let object = candidates
            .iter()
            .find(|object| fs::read(object).is_ok_and(|found| found == content))?;
        self.sources.get(object).map(PathBuf::from)
    }
}

/// Refuses objects that an earlier build has left in the source tree, if their source is there
/// too. An object without source is part of the source.
fn refuse_leftovers(parts: &[Part], scratch: &Scratch) -> Result<(), BuildError> {
    let leftovers: Vec<&Part> = parts
        .iter()
        .filter(|part| scratch.is_original(&part.file))
        .collect();
    if leftovers.is_empty() {
        return Ok(());
    }
    let names: HashSet<_> = scratch.file_names()?.into_iter().collect();
    let stale: Vec<String> = leftovers
        .iter()
        .filter(|part| source_name(&part.content).is_some_and(|name| names.contains(&name)))
        .map(|part| name_of(part, scratch))
        .collect();
    if stale.is_empty() {
        Ok(())
    } else {
        Err(BuildError::Leftover(stale))
    }
}

/// The file name of the source that an object says it was compiled from.
fn source_name(object: &Path) -> Option<std::ffi::OsString> {
    use object::ObjectSymbol as _;
    let content = fs::read(object).ok()?;
    let file = object::File::parse(&*content).ok()?;
    let symbol = file
        .symbols()
        .find(|symbol| symbol.kind() == object::SymbolKind::File)?;
    let name = Path::new(symbol.name().ok()?).file_name()?;
    Some(name.to_owned())
}

/// A path relative to the tree: with `..` if it is beside the tree, absolute if it is elsewhere.
fn relative(scratch: &Scratch, path: &Path) -> PathBuf {
    match path.strip_prefix(scratch.tree()) {
        Ok(inside) => inside.to_path_buf(),
        Err(_) => match path.strip_prefix(scratch.root()) {
            Ok(beside) => Path::new("..").join(beside),
            Err(_) => path.to_path_buf(),
        },
    }
}

/// What an object is called in both builds.
fn name_of(part: &Part, scratch: &Scratch) -> String {
    let file = relative(scratch, &part.file).display().to_string();
    match &part.member {
        Some(member) => format!("{file}({})", stable_name(member)),
        None => stable_name(&file).into_owned(),
    }
}

/// Tells equal names apart by a number.
fn name_once(names: &mut HashMap<String, usize>, name: String) -> String {
    let count = names.entry(name.clone()).or_default();
    *count += 1;
    if *count == 1 {
        name
    } else {
        format!("{name}#{count}")
    }
}
