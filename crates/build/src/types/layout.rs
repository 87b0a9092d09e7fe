//! Whether a type has the same layout in two versions of an object.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use crate::debug::{Kind, Member, Node, Place, Types};

/// Nothing that a compiler writes is nested deeper.
const DEEPEST: u32 = 100;

/// Numbers that differ when layouts do; those of equal layouts are equal but for changes of
/// names.
pub(super) struct Digests<'a, 'd> {
    types: &'a Types<'d>,
    known: Vec<Option<u64>>,
}

impl<'a, 'd> Digests<'a, 'd> {
    pub(super) fn new(types: &'a Types<'d>) -> Self {
        Self {
            types,
            known: vec![None; types.nodes.len()],
        }
    }

    /// Digest of a type.
    pub(super) fn of(&mut self, index: usize) -> u64 {
        self.value(Some(index), DEEPEST)
    }

    fn value(&mut self, index: Option<usize>, depth: u32) -> u64 {
        let Some(index) = index.filter(|_| depth > 0) else {
            return 0;
        };
        let index = self.types.complete(index);
        if let Some(known) = self.known[index] {
            return known;
        }
        let node = &self.types.nodes[index];
        if matches!(node.kind, Kind::Qualified | Kind::Typedef) {
            return self.value(node.target(), depth - 1);
        }
        // Only damaged information has a type that contains itself.
        self.known[index] = Some(0);
        let mut hasher = DefaultHasher::new();
        (node.kind, node.size, node.complete, &node.counts).hash(&mut hasher);
        match node.kind {
            Kind::Pointer => self.pointee(node.target(), depth - 1).hash(&mut hasher),
            Kind::Array => self.value(node.target(), depth - 1).hash(&mut hasher),
            Kind::Record | Kind::Union => {
                for member in &node.members {
                    (member.base, &member.name, member.place, member.bits).hash(&mut hasher);
                    self.value(member.target(), depth - 1).hash(&mut hasher);
                }
            }
            _ => {}
        }
        let digest = hasher.finish();
        self.known[index] = Some(digest);
        digest
    }

    /// What a pointer leads to: a type with a name has its own digest.
    fn pointee(&mut self, index: Option<usize>, depth: u32) -> u64 {
        let mut hasher = DefaultHasher::new();
        match index.and_then(|index| self.types.plain(index)) {
            None => 0.hash(&mut hasher),
            Some(index) => {
                let node = &self.types.nodes[index];
                match (node.family(), &node.name) {
                    (Some(family), Some(name)) => (family, name).hash(&mut hasher),
                    _ => self.value(Some(index), depth).hash(&mut hasher),
                }
            }
        }
        hasher.finish()
    }
}

impl Types<'_> {
    /// A type without `const` and the like around it.
    pub(super) fn unqualified(&self, index: usize) -> Option<usize> {
        let mut index = index;
        for _ in 0..DEEPEST {
            let node = &self.nodes[index];
            if node.kind != Kind::Qualified {
                return Some(index);
            }
            index = node.target()?;
        }
        None
    }

    /// A type without qualifiers and other names for it; a structure or union without a name
    /// keeps the one that it is known by.
    fn plain(&self, index: usize) -> Option<usize> {
        let mut index = self.unqualified(index)?;
        for _ in 0..DEEPEST {
            let node = &self.nodes[index];
            if node.kind != Kind::Typedef {
                break;
            }
            let target = self.unqualified(node.target()?)?;
            let target_node = &self.nodes[target];
            let aggregate = matches!(target_node.kind, Kind::Record | Kind::Union);
            if aggregate && target_node.name.is_none() {
                break;
            }
            index = target;
        }
        Some(index)
    }

    /// Length of a type in bytes.
    pub(super) fn size(&self, index: Option<usize>) -> Option<u64> {
        let mut index = index?;
        let mut count = 1_u64;
        for _ in 0..DEEPEST {
            let node = &self.nodes[self.complete(index)];
            if let Some(size) = node.size {
                return size.checked_mul(count);
            }
            match node.kind {
                Kind::Pointer => return count.checked_mul(8),
                Kind::Array => {
                    count = node
                        .counts
                        .iter()
                        .try_fold(count, |a, b| a.checked_mul(*b))?;
                }
                Kind::Qualified | Kind::Typedef => {}
                _ => return None,
            }
            index = node.target()?;
        }
        None
    }
}

/// Result of comparing a type with the one that it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The layout is the same.
    Same,
    /// It differs because a type with a name of its own, which is part of it, differs.
    Part,
    /// It differs by itself: what does.
    Own(Vec<Difference>),
}

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Difference {
    /// The field, with those that it is in; empty for the type as a whole.
    pub(super) field: String,
    /// What is different about it, reading on after its name.
    pub(super) what: String,
}

const UNNAMED: &str = "(unnamed)";

impl Difference {
    fn whole(what: String) -> Self {
        Self {
            field: String::new(),
            what,
        }
    }

    fn inside(self, name: &str) -> Self {
        Self {
            field: match (&*self.field, name) {
                ("", name) => name.to_owned(),
                // Fields of an unnamed union are used like its owner's.
                (field, UNNAMED) => field.to_owned(),
                (field, name) => format!("{name}.{field}"),
            },
            ..self
        }
    }
}

/// Compares types of two versions of an object.
pub(super) struct Layouts<'a, 'd> {
    before: &'a Types<'d>,
    after: &'a Types<'d>,
    known: HashMap<(usize, usize), Verdict>,
    depth: u32,
}

impl<'a, 'd> Layouts<'a, 'd> {
    pub(super) fn new(before: &'a Types<'d>, after: &'a Types<'d>) -> Self {
        Self {
            before,
            after,
            known: HashMap::new(),
            depth: 0,
        }
    }

    /// Compares two versions of a type with a name.
    pub(super) fn named(&mut self, before: usize, after: usize) -> Verdict {
        if let Some(known) = self.known.get(&(before, after)) {
            return known.clone();
        }
        // What contains itself differs only if something else does.
        self.known.insert((before, after), Verdict::Same);
        let verdict = if self.before.nodes[before].kind == Kind::Typedef {
            let targets = (
                self.before.nodes[before].target(),
                self.after.nodes[after].target(),
            );
            self.optional(targets.0, targets.1)
        } else {
            self.shapes(before, after)
        };
        self.known.insert((before, after), verdict.clone());
        verdict
    }

    /// Compares types that something is made of.
    fn optional(&mut self, before: Option<usize>, after: Option<usize>) -> Verdict {
        match (before, after) {
            (Some(before), Some(after)) if self.depth < DEEPEST => {
                self.depth += 1;
                let verdict = self.types(before, after);
                self.depth -= 1;
                verdict
            }
            _ => Verdict::Same,
        }
    }

    /// Compares the types of variables or fields.
    pub(super) fn types(&mut self, before: usize, after: usize) -> Verdict {
        let stripped = (
            self.before.unqualified(before),
            self.after.unqualified(after),
        );
        let (Some(before), Some(after)) = stripped else {
            return Verdict::Same;
        };
        let before = self.before.complete(before);
        let after = self.after.complete(after);
        let (old, new) = (&self.before.nodes[before], &self.after.nodes[after]);
        if old.name.is_some() && old.family().is_some() {
            let same_name = old.family() == new.family() && old.name == new.name;
            if same_name {
                return match self.named(before, after) {
                    Verdict::Same => Verdict::Same,
                    _ => Verdict::Part,
                };
            }
        }
        if old.kind == Kind::Typedef {
            return self.optional(old.target(), Some(after));
        }
        if new.kind == Kind::Typedef {
            return self.optional(Some(before), new.target());
        }
        if let Some(known) = self.known.get(&(before, after)) {
            return known.clone();
        }
        self.known.insert((before, after), Verdict::Same);
        let verdict = self.shapes(before, after);
        self.known.insert((before, after), verdict.clone());
        verdict
    }

    fn shapes(&mut self, before: usize, after: usize) -> Verdict {
        let (old, new) = (&self.before.nodes[before], &self.after.nodes[after]);
        if !(old.complete && new.complete) {
            return Verdict::Same;
        }
        let sizes = (self.before.size(Some(before)), self.after.size(Some(after)));
        match (class(old), class(new)) {
            (Class::Aggregate, Class::Aggregate) => self.aggregates(before, after),
            (Class::Array, Class::Array) => {
                match self.optional(old.target(), new.target()) {
                    Verdict::Same => {}
                    verdict => return verdict,
                }
                if old.counts == new.counts {
                    return Verdict::Same;
                }
                let elements = |node: &Node<'_>| {
                    let counts = node.counts.iter().map(u64::to_string);
                    counts.collect::<Vec<String>>().join(" x ")
                };
                let what = format!(
                    "changes from {} to {} elements",
                    elements(old),
                    elements(new)
                );
                Verdict::Own(vec![Difference::whole(what)])
            }
            (Class::Pointer, Class::Pointer) => self.pointees(old, new),
            (old_class, new_class) if old_class == new_class => {
                if sizes.0 == sizes.1 {
                    return Verdict::Same;
                }
                Verdict::Own(vec![Difference::whole(describe_sizes(sizes))])
            }
            (old_class, new_class) => {
                let what = format!(
                    "changes from {} to {}",
                    describe_class(old_class, sizes.0),
                    describe_class(new_class, sizes.1)
                );
                Verdict::Own(vec![Difference::whole(what)])
            }
        }
    }

    /// Pointers to types that have no name in common must lead to the same layout. What a
    /// pointer to `void` or to bytes leads to is not known.
    fn pointees(&mut self, old: &Node<'_>, new: &Node<'_>) -> Verdict {
        let plain = (
            old.target().and_then(|target| self.before.plain(target)),
            new.target().and_then(|target| self.after.plain(target)),
        );
        let (Some(before), Some(after)) = plain else {
            return Verdict::Same;
        };
        let before = self.before.complete(before);
        let after = self.after.complete(after);
        let (old, new) = (&self.before.nodes[before], &self.after.nodes[after]);
        let named = old.name.is_some() && old.family().is_some();
        let opaque = |node: &Node<'_>| {
            let unknown = matches!(node.kind, Kind::Function | Kind::Opaque);
            unknown || !node.complete || node.size == Some(1)
        };
        if (named && old.family() == new.family() && old.name == new.name)
            || opaque(old)
            || opaque(new)
        {
            return Verdict::Same;
        }
        match self.optional(Some(before), Some(after)) {
            Verdict::Own(_) => {
                let what = "leads to something of another layout".to_owned();
                Verdict::Own(vec![Difference::whole(what)])
            }
            _ => Verdict::Same,
        }
    }

    fn aggregates(&mut self, before: usize, after: usize) -> Verdict {
        let (old, new) = (&self.before.nodes[before], &self.after.nodes[after]);
        let pairs = pair_members(&old.members, &new.members);
        let mut differences = Vec::new();
        let mut parts = false;
        let mut moved = Vec::new();
        let mut gone: Vec<usize> = (0..old.members.len()).collect();
        let mut new_ones = Vec::new();
        for (index, member) in new.members.iter().enumerate() {
            let Some(position) = pairs[index] else {
                new_ones.push(index);
                continue;
            };
            gone.retain(|other| *other != position);
            let previous = &old.members[position];
            let name = describe_member(member);
            match self.optional(previous.target(), member.target()) {
                Verdict::Same => {}
                Verdict::Part => parts = true,
                Verdict::Own(inner) => {
                    differences.extend(inner.into_iter().map(|inner| inner.inside(&name)));
                }
            }
            if previous.bits != member.bits {
                let bits = |member: &Member<'_>| match member.bits {
                    Some(bits) => format!("{bits} bits"),
                    None => "a whole field".to_owned(),
                };
                let what = format!("changes from {} to {}", bits(previous), bits(member));
                differences.push(Difference { field: name, what });
            } else if previous.place != member.place {
                let places = (describe_place(previous), describe_place(member));
                let what = format!("moves from {} to {}", places.0, places.1);
                moved.push(Difference { field: name, what });
            }
        }
        // What a union may hold besides changes nothing about what it holds.
        if old.kind == Kind::Union && new.kind == Kind::Union {
            new_ones.clear();
            gone.clear();
        }
        // A field of another name in the same place is the same field.
        new_ones.retain(|index| {
            let member = &new.members[*index];
            let renamed = gone.iter().position(|other| {
                let other = &old.members[*other];
                (other.base, other.place, other.bits) == (member.base, member.place, member.bits)
                    && self.optional(other.target(), member.target()) == Verdict::Same
            });
            if let Some(position) = renamed {
                gone.remove(position);
            }
            renamed.is_none()
        });
        for (members, indexes, what) in [
            (&new.members, new_ones, "new"),
            (&old.members, gone, "gone"),
        ] {
            for index in indexes {
                let member = &members[index];
                differences.push(Difference {
                    field: describe_member(member),
                    what: format!("is {what}, at {}", describe_place(member)),
                });
            }
        }
        let resized = old.size != new.size;
        match (differences.is_empty(), moved.is_empty() && !resized, parts) {
            (false, ..) => Verdict::Own(differences),
            (true, true, false) => Verdict::Same,
            (true, _, true) => Verdict::Part,
            (true, false, false) if moved.is_empty() => {
                let what = describe_sizes((old.size, new.size));
                Verdict::Own(vec![Difference::whole(what)])
            }
            (true, false, false) => Verdict::Own(moved),
        }
    }
}

/// For each new member the old one of its name; those without a name follow each other.
fn pair_members(old: &[Member<'_>], new: &[Member<'_>]) -> Vec<Option<usize>> {
    let mut positions: HashMap<_, Vec<usize>> = HashMap::new();
    for (index, member) in old.iter().enumerate().rev() {
        let key = (member.base, &member.name);
        positions.entry(key).or_default().push(index);
    }
    let mut pairs = Vec::with_capacity(new.len());
    for member in new {
        let found = positions.get_mut(&(member.base, &member.name));
        pairs.push(found.and_then(Vec::pop));
    }
    pairs
}

/// What types must have in common to be the same when they have the same size.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Aggregate,
    Array,
    Pointer,
    Integer,
    Float,
    Other,
}

fn class(node: &Node<'_>) -> Class {
    match node.kind {
        Kind::Record | Kind::Union => Class::Aggregate,
        Kind::Array => Class::Array,
        Kind::Pointer => Class::Pointer,
        Kind::Integer | Kind::Enumeration => Class::Integer,
        Kind::Float => Class::Float,
        _ => Class::Other,
    }
}

fn describe_class(class: Class, size: Option<u64>) -> String {
    let what = match class {
        Class::Aggregate => "a structure or union",
        Class::Array => "an array",
        Class::Pointer => "a pointer",
        Class::Integer => "a whole number",
        Class::Float => "a floating-point number",
        Class::Other => "something else",
    };
    match size {
        Some(size) => format!("{what} of {size} bytes"),
        None => what.to_owned(),
    }
}

fn describe_sizes(sizes: (Option<u64>, Option<u64>)) -> String {
    let size = |size: Option<u64>| size.map_or("an unknown number of".into(), |s| s.to_string());
    format!("changes from {} to {} bytes", size(sizes.0), size(sizes.1))
}

fn describe_member(member: &Member<'_>) -> String {
    match &member.name {
        Some(name) => name.clone().into_owned(),
        None if member.base => "(base class)".to_owned(),
        None => UNNAMED.to_owned(),
    }
}

fn describe_place(member: &Member<'_>) -> String {
    match member.place {
        Place::Fixed(bits) if bits % 8 == 0 => format!("byte {}", bits / 8),
        Place::Fixed(bits) => format!("bit {bits}"),
        Place::Expression(_) => "a computed place".to_owned(),
    }
}
