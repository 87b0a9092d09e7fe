//! Two finished build trees: the objects that a target was linked from, found again.
//!
//! Nobody saw the link. An object belongs to the target if its functions are there, byte for byte
//! outside of what the linker fills in. Small objects are taken first, so what was linked from
//! others is not taken beside them.

mod candidate;
mod content;
mod image;

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::compiling::{BuildError, Built, BuiltObject, FileKind, has_link_time_code};
use crate::compiling::{keep_content, kind_of, read_members};
use candidate::{Candidate, SymbolsKind};
use content::is_same_but_for_paths;
use image::Image;

/// Two trees in which the target has been built, and where it is.
#[derive(Clone, Debug)]
pub struct FinishedRequest {
    /// The tree without the change, with its objects.
    pub pre: PathBuf,
    /// The tree with the change.
    pub post: PathBuf,
    /// The target, relative to either tree, with its symbol table.
    pub target: PathBuf,
    /// An empty directory for what is found.
    pub work: PathBuf,
}

/// Finds the objects of both trees' targets.
///
/// # Errors
///
/// [`BuildError`], if they cannot be found or it is not clear which they are.
pub fn find_both(request: &FinishedRequest) -> Result<(Built, Built), BuildError> {
    let find = |tree| find(tree, &request.target, &request.work);
    let (before, mut after) = (find(&request.pre)?, find(&request.post)?);
    unify(&before, &mut after)?;
    Ok((before, after))
}

/// Gives objects that differ by nothing but the names of their trees one content.
fn unify(before: &Built, after: &mut Built) -> Result<(), BuildError> {
    let old: HashMap<&str, &PathBuf> = before
        .objects
        .iter()
        .map(|object| (&*object.name, &object.path))
        .collect();
    let read = |path: &PathBuf| fs::read(path).map_err(BuildError::io("read", path));
    for object in &mut after.objects {
        if let Some(&path) = old.get(&*object.name)
            && *path != object.path
            && is_same_but_for_paths(&read(path)?, &read(&object.path)?)
        {
            object.path = path.clone();
        }
    }
    Ok(())
}

fn find(tree: &Path, target: &Path, store: &Path) -> Result<Built, BuildError> {
    let file = tree.join(target);
    let content = fs::read(&file).map_err(BuildError::io("read", &file))?;
    let image = Image::read(&content).ok_or_else(|| BuildError::Stripped(file.clone()))?;
    let mut search = Search {
        tree,
        image: &image,
        candidates: Vec::new(),
        link_time: None,
    };
    for path in list_files(tree)? {
        search.examine_file(&path)?;
    }
    let mut chosen = choose(search.candidates, &image, &file)?;
    if let Some(object) = search.link_time
        && (chosen.is_empty() || image.is_generated_when_linked())
    {
        return Err(BuildError::LinkTimeOptimization(object));
    }
    if chosen.is_empty() {
        return Err(BuildError::NoObjectFound {
            tree: tree.to_path_buf(),
            target: file,
        });
    }
    chosen.sort_by_key(|candidate| candidate.address);
    let objects = chosen
        .into_iter()
        .map(|candidate| {
            let path = keep_content(store, &candidate.content)
                .map_err(BuildError::io("write to", store))?;
            Ok(BuiltObject {
                name: candidate.name,
                path,
                source: None,
            })
        })
        .collect::<Result<_, BuildError>>()?;
    Ok(Built {
        objects,
        target: file,
        compiled: absolute(tree)?,
        source: absolute(tree)?,
    })
}

fn absolute(tree: &Path) -> Result<PathBuf, BuildError> {
    tree.canonicalize().map_err(BuildError::io("find", tree))
}

/// All files below a tree, in the order of their names.
fn list_files(tree: &Path) -> Result<Vec<PathBuf>, BuildError> {
    let mut files = Vec::new();
    let mut directories = vec![tree.to_path_buf()];
    while let Some(directory) = directories.pop() {
        let entries = fs::read_dir(&directory).map_err(BuildError::io("read", &directory))?;
        for entry in entries {
            let entry = entry.map_err(BuildError::io("read", &directory))?;
            let kind = entry
                .file_type()
                .map_err(BuildError::io("read", entry.path()))?;
            if kind.is_dir() {
                directories.push(entry.path());
            } else if kind.is_file() {
                files.push(entry.path());
            }
        }
    }
    files.sort();
    Ok(files)
}

/// Objects that are looked at, one file after the other.
struct Search<'a> {
    tree: &'a Path,
    image: &'a Image,
    candidates: Vec<Candidate>,
    /// The first object with intermediate code.
    link_time: Option<PathBuf>,
}

impl Search<'_> {
    fn examine_file(&mut self, path: &Path) -> Result<(), BuildError> {
        let content = fs::read(path).map_err(BuildError::io("read", path))?;
        let relative = path.strip_prefix(self.tree).unwrap_or(path);
        let name = relative.display().to_string();
        match kind_of(&content) {
            FileKind::Object | FileKind::Bitcode => self.examine(relative, name, content),
            FileKind::Archive => {
                let members = read_members(path).map_err(BuildError::io("read", path))?;
                for (member, content) in members {
                    self.examine(relative, format!("{name}({member})"), content);
                }
            }
            FileKind::Other => {}
        }
        Ok(())
    }

    fn examine(&mut self, file: &Path, name: String, content: Vec<u8>) {
        if has_link_time_code(&content) {
            self.link_time.get_or_insert_with(|| file.to_path_buf());
        }
        self.candidates
            .extend(Candidate::examine(name, content, self.image));
    }
}

/// Takes candidates, the small ones first, that explain symbols which no other one explains.
fn choose(
    mut candidates: Vec<Candidate>,
    image: &Image,
    target: &Path,
) -> Result<Vec<Candidate>, BuildError> {
    candidates.sort_by(|a, b| a.rank().cmp(&b.rank()));
    let mut seen = HashSet::new();
    let mut owners: HashMap<usize, usize> = HashMap::new();
    let mut chosen: Vec<Candidate> = Vec::new();
    for candidate in candidates {
        if !seen.insert(candidate.identity) {
            continue;
        }
        let is_owned = |symbol: &usize| owners.contains_key(symbol);
        let rival = candidate.symbols.iter().copied().find(is_owned);
        let explains_more = !candidate.symbols.iter().all(is_owned);
        if let Some(symbol) = rival {
            let owner = &chosen[owners[&symbol]];
            if candidate.kind == SymbolsKind::Global
                && (explains_more || owner.symbols == candidate.symbols)
            {
                return Err(BuildError::Ambiguous {
                    target: target.to_path_buf(),
                    symbol: image.name_of(symbol),
                    first: owner.name.clone(),
                    second: candidate.name,
                });
            }
        }
        if !explains_more {
            continue;
        }
        for &symbol in &candidate.symbols {
            owners.entry(symbol).or_insert(chosen.len());
        }
        chosen.push(candidate);
    }
    Ok(chosen)
}
