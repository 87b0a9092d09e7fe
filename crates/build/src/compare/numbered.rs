//! Static variables of functions, whose names compilers have made unique by numbers.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::function_stem;
use super::lines::Compilation;
use crate::object::{Binding, ObjectFile, SymbolKind, Target};

/// A variable whose name the compiler has made unique.
#[derive(Clone, Debug)]
struct Numbered<'a> {
    symbol: usize,
    number: u64,
    /// The first function that uses it, and which one of its base name it is there.
    first_use: Option<(&'a str, usize)>,
    /// Its name with that of the function that it is in, if debugging information tells.
    full_name: Option<String>,
}

/// Which numbered variables are the same.
#[derive(Debug, Default)]
pub(super) struct NumberedPairs {
    /// Symbols after and before.
    pub(super) pairs: Vec<(usize, usize)>,
    /// Symbols after the change of which it is not known which ones they were.
    pub(super) uncertain: Vec<usize>,
}

/// Names of such variables without the numbers.
pub(super) fn list_bases<'a>(before: &'a ObjectFile, after: &'a ObjectFile) -> BTreeSet<&'a str> {
    let symbols = before.symbols.iter().chain(&after.symbols);
    let variables = symbols.filter(|symbol| is_variable(symbol.kind));
    let numbered = variables.filter_map(|symbol| split_name(&symbol.name, symbol.binding));
    numbered.map(|(base, _)| base).collect()
}

/// Whether a symbol is one of those variables: with a number, or the one that needed none.
pub(super) fn is_numbered(object: &ObjectFile, index: usize, bases: &BTreeSet<&str>) -> bool {
    let symbol = &object.symbols[index];
    is_variable(symbol.kind)
        && (bases.contains(&*symbol.name) || split_name(&symbol.name, symbol.binding).is_some())
}

fn is_variable(kind: SymbolKind) -> bool {
    matches!(kind, SymbolKind::Object | SymbolKind::Tls)
}

/// Base name and number: `count` of `count.3` in C, `_ZZ4nextvE5count` of
/// `_ZZ4nextvE5count_0` in C++ (Itanium C++ ABI, "Scope encoding").
fn split_name(name: &str, binding: Binding) -> Option<(&str, u64)> {
    if let Some((base, number)) = name.rsplit_once('.') {
        let local = binding == Binding::Local && !base.is_empty();
        return Some((base, parse(number)?)).filter(|_| local);
    }
    if !(name.starts_with("_ZZ") || name.starts_with("_ZGVZ")) {
        return None;
    }
    let (base, number) = match name.strip_suffix('_') {
        Some(name) => name.rsplit_once("__")?,
        None => name.rsplit_once('_')?,
    };
    // The name before it says how long it is, which tells the number from a part of it.
    let digits = |length: usize| base.len().checked_sub(length).map(|end| &base[..end]);
    let whole = (1..base.len()).any(|length| {
        digits(length).is_some_and(|rest| {
            let count = length.to_string();
            rest.ends_with(&count)
                && !rest[..rest.len() - count.len()].ends_with(|c: char| c.is_ascii_digit())
        })
    });
    Some((base, parse(number)?)).filter(|_| whole)
}

fn parse(number: &str) -> Option<u64> {
    let numeric = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    number.parse().ok().filter(|_| numeric)
}

/// Pairs the numbered variables of two versions of an object: by the functions that use them
/// first, and where that leaves doubt by the functions that they are declared in.
pub(super) fn pair(
    before: &ObjectFile,
    after: &ObjectFile,
    bases: &BTreeSet<&str>,
    compilation: &Compilation<'_>,
) -> NumberedPairs {
    let mut found = NumberedPairs::default();
    let mut old_groups = group(before, bases);
    let mut doubtful = Vec::new();
    for (base, mut new) in group(after, bases) {
        let mut old = old_groups.remove(base).unwrap_or_default();
        let owners: BTreeSet<&str> = new
            .iter()
            .filter_map(|one| Some(one.first_use?.0))
            .collect();
        if old.len() == 1 && new.len() == 1 {
            found.add_alike((before, &old), (after, &new));
        }
        for owner in owners {
            found.add_alike(
                (before, &of_owner(&old, owner)),
                (after, &of_owner(&new, owner)),
            );
        }
        old.retain(|one| found.pairs.iter().all(|pair| pair.1 != one.symbol));
        new.retain(|one| found.pairs.iter().all(|pair| pair.0 != one.symbol));
        // As long as unpaired old ones are left, a new one may be any of them.
        if !old.is_empty() && !new.is_empty() {
            doubtful.push((old, new));
        }
    }
    if !doubtful.is_empty() {
        let names = compilation.variable_names().unwrap_or_default();
        for (mut old, mut new) in doubtful {
            name_all(before, &mut old, &names[0]);
            name_all(after, &mut new, &names[1]);
            found.add_by_name((before, old), (after, new));
        }
    }
    found
}

/// Those that a function uses first, in the order of their use.
fn of_owner<'a>(ones: &[Numbered<'a>], owner: &str) -> Vec<Numbered<'a>> {
    let is_own = |one: &&Numbered<'_>| one.first_use.is_some_and(|used| used.0 == owner);
    let mut own: Vec<_> = ones.iter().filter(is_own).cloned().collect();
    own.sort_by_key(|one| one.first_use.map(|used| used.1));
    own
}

impl NumberedPairs {
    /// Pairs variables in the order of their use, if there is no doubt that it is the same.
    fn add_alike(
        &mut self,
        (before, old): (&ObjectFile, &[Numbered<'_>]),
        (after, new): (&ObjectFile, &[Numbered<'_>]),
    ) {
        let ranks = |ones: &[Numbered<'_>]| {
            let rank = |one: &Numbered<'_>| {
                ones.iter()
                    .filter(|other| other.number < one.number)
                    .count()
            };
            ones.iter().map(rank).collect::<Vec<usize>>()
        };
        let mut both = old.iter().zip(new);
        let alike = old.len() == new.len()
            && both.all(|(old, new)| kind_of(before, old.symbol) == kind_of(after, new.symbol))
            && ranks(old) == ranks(new);
        if alike {
            let pairs = old
                .iter()
                .zip(new)
                .map(|(old, new)| (new.symbol, old.symbol));
            let known: BTreeSet<usize> = self.pairs.iter().map(|pair| pair.0).collect();
            self.pairs
                .extend(pairs.filter(|pair| !known.contains(&pair.0)));
        }
    }

    fn add_by_name(
        &mut self,
        (before, old): (&ObjectFile, Vec<Numbered<'_>>),
        (after, new): (&ObjectFile, Vec<Numbered<'_>>),
    ) {
        let count = |ones: &[Numbered<'_>], name: &Option<String>| {
            ones.iter().filter(|one| one.full_name == *name).count()
        };
        let all_known = old.iter().all(|one| one.full_name.is_some());
        for one in &new {
            let name = &one.full_name;
            let mut same = old.iter().filter(|other| other.full_name == *name);
            match (count(&old, name), count(&new, name), same.next()) {
                (1, 1, Some(other))
                    if name.is_some()
                        && kind_of(before, other.symbol) == kind_of(after, one.symbol) =>
                {
                    self.pairs.push((one.symbol, other.symbol));
                }
                // None of the old ones was in that function.
                (0, ..) if name.is_some() && all_known => {}
                _ => self.uncertain.push(one.symbol),
            }
        }
    }
}

fn name_all(object: &ObjectFile, ones: &mut [Numbered<'_>], names: &HashMap<(usize, u64), String>) {
    for one in ones {
        let place = object.symbols[one.symbol].place;
        one.full_name = place.and_then(|place| names.get(&place)).cloned();
    }
}

fn kind_of(object: &ObjectFile, symbol: usize) -> (SymbolKind, bool) {
    let symbol = &object.symbols[symbol];
    let constant = symbol
        .place
        .is_some_and(|(section, _)| object.sections[section].kind.is_constant());
    (symbol.kind, constant)
}

fn group<'a>(
    object: &'a ObjectFile,
    bases: &BTreeSet<&'a str>,
) -> BTreeMap<&'a str, Vec<Numbered<'a>>> {
    let base_of = |index: usize| {
        let symbol = &object.symbols[index];
        split_name(&symbol.name, symbol.binding).unwrap_or((&symbol.name, 0))
    };
    let mut uses: HashMap<usize, (&str, usize)> = HashMap::new();
    for index in 0..object.sections.len() {
        let mut counts: HashMap<&str, usize> = HashMap::new();
        let mut seen = BTreeSet::new();
        for relocation in &object.sections[index].relocations {
            let Target::Place { section, offset } = object.target(relocation) else {
                continue;
            };
            let Some((symbol, _)) = object.symbol_at(section, offset) else {
                continue;
            };
            if !is_numbered(object, symbol, bases) || !seen.insert(symbol) {
                continue;
            }
            let count = counts.entry(base_of(symbol).0).or_default();
            let owner = function_stem(object.title(index));
            uses.entry(symbol).or_insert((owner, *count));
            *count += 1;
        }
    }
    let mut groups: BTreeMap<&str, Vec<Numbered<'_>>> = BTreeMap::new();
    for (index, symbol) in object.symbols.iter().enumerate() {
        if symbol.place.is_some() && is_numbered(object, index, bases) {
            let (base, number) = base_of(index);
            groups.entry(base).or_default().push(Numbered {
                symbol: index,
                number,
                first_use: uses.get(&index).copied(),
                full_name: None,
            });
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_told_from_names() {
        let split = |name| split_name(name, Binding::Local);
        assert_eq!(split("count.12"), Some(("count", 12)));
        assert_eq!(split("a.b.0"), Some(("a.b", 0)));
        assert_eq!(split("_ZZ4nextvE5count_0"), Some(("_ZZ4nextvE5count", 0)));
        assert_eq!(
            split("_ZZ4nextvE5count__10_"),
            Some(("_ZZ4nextvE5count", 10))
        );
        assert_eq!(
            split("_ZGVZ4nextvE5count_1"),
            Some(("_ZGVZ4nextvE5count", 1))
        );
        for name in [
            "count",
            "count.",
            "f.cold",
            ".3",
            "x.1a",
            "_ZZ4nextvE7count_0",
            "_ZZ4nextvE5count",
            "x_1",
        ] {
            assert_eq!(split(name), None, "{name}");
        }
        assert_eq!(split_name("count.1", Binding::Global), None);
    }
}
