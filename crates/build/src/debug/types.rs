//! Types and variables of one object, as its debugging information describes them.

use std::borrow::Cow;
use std::collections::HashMap;

use gimli::{AttributeValue, DwTag, constants as dw};

use super::Slice;
use super::attributes::Attributes;
use super::units::ReadUnit;
use crate::error::BuildError;

/// Types of an object; positions in `nodes` stand for them.
#[derive(Debug, Default)]
pub(crate) struct Types<'d> {
    /// By offset.
    pub(crate) nodes: Vec<Node<'d>>,
    /// Variables of static storage, and declarations of such.
    pub(crate) variables: Vec<Variable<'d>>,
    /// Complete types that have a name.
    pub(crate) names: HashMap<(Family, Cow<'d, str>), Vec<usize>>,
}

/// One type.
#[derive(Debug)]
pub(crate) struct Node<'d> {
    /// Where it is described.
    pub(crate) offset: usize,
    /// What it is.
    pub(crate) kind: Kind,
    /// Its name with those of the namespaces, classes and functions around it.
    pub(crate) name: Option<Cow<'d, str>>,
    /// Length in bytes.
    pub(crate) size: Option<u64>,
    /// The type that it is made from.
    target: Reference,
    /// Elements of an array in each dimension, 0 when open.
    pub(crate) counts: Vec<u64>,
    /// Fields and base classes.
    pub(crate) members: Vec<Member<'d>>,
    /// It is not just announced.
    pub(crate) complete: bool,
    /// Source file, as the unit at that offset numbers it.
    pub(crate) file: (usize, u64),
}

/// What a type is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// A structure or class.
    Record,
    /// A union.
    Union,
    /// An enumeration.
    Enumeration,
    /// Another name for a type.
    Typedef,
    /// A whole number, character or truth value.
    Integer,
    /// A floating-point number.
    Float,
    /// A pointer or reference.
    Pointer,
    /// An array or vector.
    Array,
    /// The same type, `const` or the like.
    Qualified,
    /// A function.
    Function,
    /// Anything else.
    Opaque,
}

/// Kinds that share their names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Family {
    Tag,
    Typedef,
}

/// Field or base class of a structure or union.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Member<'d> {
    pub(crate) base: bool,
    pub(crate) name: Option<Cow<'d, str>>,
    pub(crate) place: Place<'d>,
    /// Width in bits, of a bit field.
    pub(crate) bits: Option<u64>,
    target: Reference,
}

/// Where a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Place<'d> {
    /// Distance from the start in bits.
    Fixed(u64),
    /// Computed at run time.
    Expression(&'d [u8]),
}

/// A variable with static storage.
#[derive(Debug)]
pub(crate) struct Variable<'d> {
    offset: usize,
    pub(crate) name: Cow<'d, str>,
    /// Its name in the symbol table.
    pub(crate) symbol: Cow<'d, str>,
    /// Address, unless it is only declared here.
    pub(crate) address: Option<u64>,
    target: Reference,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Reference {
    None,
    Offset(usize),
    /// A type in a unit of its own.
    Signature(u64),
    /// A type in this object.
    Node(usize),
}

impl Node<'_> {
    /// Position of the type that it is made from.
    pub(crate) fn target(&self) -> Option<usize> {
        self.target.node()
    }

    /// Types of this name and family are the same type.
    pub(crate) fn family(&self) -> Option<Family> {
        match self.kind {
            Kind::Record | Kind::Union | Kind::Enumeration => Some(Family::Tag),
            Kind::Typedef => Some(Family::Typedef),
            _ => None,
        }
    }
}

impl Member<'_> {
    /// Position of its type.
    pub(crate) fn target(&self) -> Option<usize> {
        self.target.node()
    }
}

impl Variable<'_> {
    /// Position of its type.
    pub(crate) fn target(&self) -> Option<usize> {
        self.target.node()
    }
}

impl Reference {
    fn node(self) -> Option<usize> {
        match self {
            Self::Node(index) => Some(index),
            _ => None,
        }
    }
}

impl<'d> Types<'d> {
    /// Reads all types and static variables of an object.
    pub(crate) fn read(
        dwarf: &gimli::Dwarf<Slice<'d>>,
        units: &[ReadUnit<'d>],
    ) -> Result<Self, BuildError> {
        let mut types = Self::default();
        let mut signatures = HashMap::new();
        for unit in units {
            if let gimli::UnitType::Type {
                type_signature,
                type_offset,
            } = unit.unit.header.type_()
            {
                signatures.insert(type_signature.0, unit.start + type_offset.0);
            }
            UnitReader::new(dwarf, unit, &mut types).read()?;
        }
        types.resolve(&signatures);
        for (index, node) in types.nodes.iter().enumerate() {
            if let (Some(family), Some(name), true) = (node.family(), &node.name, node.complete) {
                let entry = types.names.entry((family, name.clone())).or_default();
                entry.push(index);
            }
        }
        Ok(types)
    }

    /// Names of the variables that are defined here, with those of the functions and the like
    /// around them, by address.
    pub(crate) fn variable_names(&self) -> HashMap<u64, String> {
        let named = |variable: &Variable<'_>| Some((variable.address?, variable.name.to_string()));
        self.variables.iter().filter_map(named).collect()
    }

    /// Position of the type at an offset.
    pub(crate) fn at(&self, offset: usize) -> Option<usize> {
        self.nodes
            .binary_search_by_key(&offset, |node| node.offset)
            .ok()
    }

    /// The description of a type that is just announced here.
    pub(crate) fn complete(&self, index: usize) -> usize {
        let node = &self.nodes[index];
        if node.complete {
            return index;
        }
        let (Some(family), Some(name)) = (node.family(), &node.name) else {
            return index;
        };
        let found = self.names.get(&(family, name.clone()));
        found.map_or(index, |found| found[0])
    }

    fn resolve(&mut self, signatures: &HashMap<u64, usize>) {
        self.nodes.sort_by_key(|node| node.offset);
        let offsets: Vec<usize> = self.nodes.iter().map(|node| node.offset).collect();
        let resolve = |reference: &mut Reference| {
            let offset = match *reference {
                Reference::Offset(offset) => Some(offset),
                Reference::Signature(signature) => signatures.get(&signature).copied(),
                _ => None,
            };
            let found = offset.and_then(|offset| offsets.binary_search(&offset).ok());
            *reference = found.map_or(Reference::None, Reference::Node);
        };
        for node in &mut self.nodes {
            resolve(&mut node.target);
            for member in &mut node.members {
                resolve(&mut member.target);
            }
        }
        self.resolve_variables();
        for variable in &mut self.variables {
            resolve(&mut variable.target);
        }
        // A class that was announced inside another one has its name there.
        for index in 0..self.nodes.len() {
            let node = &self.nodes[index];
            if let (Kind::Record | Kind::Union, None, Some(target)) =
                (node.kind, &node.name, node.target())
            {
                self.nodes[index].name = self.nodes[target].name.clone();
            }
        }
    }

    /// What a variable's declaration says counts for its definition, and takes its place.
    fn resolve_variables(&mut self) {
        self.variables.sort_by_key(|variable| variable.offset);
        let mut declared = Vec::new();
        for index in 0..self.variables.len() {
            let Reference::Offset(offset) = self.variables[index].target else {
                continue;
            };
            let found = self
                .variables
                .binary_search_by_key(&offset, |variable| variable.offset);
            if let Ok(declaration) = found {
                let source = &self.variables[declaration];
                let (name, symbol) = (source.name.clone(), source.symbol.clone());
                let target = source.target;
                let variable = &mut self.variables[index];
                (variable.name, variable.symbol, variable.target) = (name, symbol, target);
                declared.push(declaration);
            }
        }
        let mut index = 0;
        self.variables.retain(|variable| {
            index += 1;
            !declared.contains(&(index - 1)) && !variable.name.is_empty()
        });
    }
}

/// Reads the entries of one unit.
struct UnitReader<'a, 'd> {
    dwarf: &'a gimli::Dwarf<Slice<'d>>,
    unit: &'a ReadUnit<'d>,
    types: &'a mut Types<'d>,
    parents: Vec<Parent<'d>>,
    /// Names of functions and namespaces, by offset.
    scopes: HashMap<usize, Cow<'d, str>>,
}

struct Parent<'d> {
    depth: isize,
    /// Of a namespace, class or function.
    scope: Option<Cow<'d, str>>,
    /// The type whose members are in it.
    node: Option<usize>,
    /// Value by which the members of a variant are in use.
    variant: Option<u64>,
    function: bool,
}

impl<'a, 'd> UnitReader<'a, 'd> {
    fn new(
        dwarf: &'a gimli::Dwarf<Slice<'d>>,
        unit: &'a ReadUnit<'d>,
        types: &'a mut Types<'d>,
    ) -> Self {
        Self {
            dwarf,
            unit,
            types,
            parents: Vec::new(),
            scopes: HashMap::new(),
        }
    }

    fn read(&mut self) -> Result<(), BuildError> {
        let unit = self.unit;
        let mut entries = unit.unit.entries_raw(None)?;
        while !entries.is_empty() {
            let offset = unit.start + entries.next_offset().0;
            let depth = entries.next_depth();
            let Some(abbreviation) = entries.read_abbreviation()? else {
                continue;
            };
            while self.parents.last().is_some_and(|last| last.depth >= depth) {
                self.parents.pop();
            }
            let tag = abbreviation.tag();
            let specifications = abbreviation.attributes();
            if !is_wanted(tag) {
                entries.skip_attributes(specifications)?;
                continue;
            }
            let attributes = Attributes::read(&mut entries, specifications, unit, self.dwarf)?;
            self.enter(offset, depth, tag, &attributes)?;
        }
        Ok(())
    }

    fn enter(
        &mut self,
        offset: usize,
        depth: isize,
        tag: DwTag,
        attributes: &Attributes<'d>,
    ) -> Result<(), BuildError> {
        let mut parent = Parent {
            depth,
            scope: None,
            node: None,
            variant: None,
            function: false,
        };
        match tag {
            dw::DW_TAG_namespace => {
                let name = self.text(attributes.name)?;
                parent.scope = Some(name.unwrap_or("(anonymous namespace)".into()));
            }
            dw::DW_TAG_subprogram => {
                let known = attributes.origin_offset();
                let known = known.and_then(|origin| self.scopes.get(&origin).cloned());
                let name = known.or(self.text(attributes.name)?);
                let name = name.unwrap_or_default();
                self.scopes.insert(offset, name.clone());
                parent.scope = Some(name);
                parent.function = true;
            }
            dw::DW_TAG_variant => {
                parent.node = self.container();
                parent.variant = attributes.discriminator;
            }
            dw::DW_TAG_variant_part => parent.node = self.container(),
            dw::DW_TAG_subrange_type => {
                if let Some(array) = self.container() {
                    let count = attributes.count.unwrap_or_default();
                    self.types.nodes[array].counts.push(count);
                }
                return Ok(());
            }
            dw::DW_TAG_member | dw::DW_TAG_inheritance => {
                return self.add_member(tag, attributes);
            }
            dw::DW_TAG_variable => return self.add_variable(offset, attributes),
            _ => {
                let index = self.add_node(offset, tag, attributes)?;
                parent.node = Some(index);
                parent.scope.clone_from(&self.types.nodes[index].name);
                // The name says already what is around it.
                if self.types.nodes[index].family().is_none() {
                    parent.scope = None;
                }
            }
        }
        self.parents.push(parent);
        Ok(())
    }

    fn container(&self) -> Option<usize> {
        self.parents.last().and_then(|parent| parent.node)
    }

    fn text(
        &self,
        value: Option<AttributeValue<Slice<'d>>>,
    ) -> Result<Option<Cow<'d, str>>, BuildError> {
        let Some(value) = value else {
            return Ok(None);
        };
        let text = self.dwarf.attr_string(&self.unit.unit, value)?;
        Ok(Some(String::from_utf8_lossy(text.slice())))
    }

    /// A name with the names of what is around it.
    fn qualify(&self, name: Cow<'d, str>) -> Cow<'d, str> {
        let mut parts: Vec<&str> = vec![&name];
        for parent in self.parents.iter().rev() {
            parts.extend(parent.scope.as_deref());
            // The name of a class has its own surroundings in it.
            if parent.scope.is_some() && parent.node.is_some() {
                break;
            }
        }
        if parts.len() == 1 {
            return name;
        }
        parts.reverse();
        parts.join("::").into()
    }

    fn add_member(&mut self, tag: DwTag, attributes: &Attributes<'d>) -> Result<(), BuildError> {
        let Some(parent) = self.parents.last() else {
            return Ok(());
        };
        // Variables of a class are declared like fields.
        let (Some(node), false) = (parent.node, attributes.declaration || attributes.external)
        else {
            return Ok(());
        };
        let name = self.text(attributes.name)?;
        let name = match (name, parent.variant) {
            (name, None) => name,
            (name, Some(value)) => Some(format!("{}#{value}", name.unwrap_or_default()).into()),
        };
        let start = match attributes.place {
            Some(Place::Fixed(start)) => start,
            _ => 0,
        };
        let fixed = match (attributes.data_bit_offset, attributes.bit_offset) {
            (Some(bits), _) => start + bits,
            // Counted from the most significant bit of a unit of storage (DWARF 2 and 3).
            (None, Some(bits)) => {
                let storage = attributes.size.unwrap_or(4) * 8;
                let width = attributes.bit_size.unwrap_or_default();
                (start + storage).wrapping_sub(bits + width)
            }
            (None, None) => start,
        };
        self.types.nodes[node].members.push(Member {
            base: tag == dw::DW_TAG_inheritance,
            name,
            place: match attributes.place {
                Some(place @ Place::Expression(_)) => place,
                _ => Place::Fixed(fixed),
            },
            bits: attributes.bit_size,
            target: attributes.target,
        });
        Ok(())
    }

    fn add_variable(
        &mut self,
        offset: usize,
        attributes: &Attributes<'d>,
    ) -> Result<(), BuildError> {
        let local = self.parents.iter().any(|parent| parent.function);
        if local && attributes.address.is_none() {
            return Ok(());
        }
        let name = self.text(attributes.name)?;
        let linkage_name = self.text(attributes.linkage_name)?;
        let symbol = linkage_name.or(name.clone()).unwrap_or_default();
        let target = match attributes.origin {
            Reference::None => attributes.target,
            origin => origin,
        };
        let name = name.map(|name| self.qualify(name)).unwrap_or_default();
        self.types.variables.push(Variable {
            offset,
            name,
            symbol,
            address: attributes.address,
            target,
        });
        Ok(())
    }

    fn add_node(
        &mut self,
        offset: usize,
        tag: DwTag,
        attributes: &Attributes<'d>,
    ) -> Result<usize, BuildError> {
        let mut kind = kind_of(tag);
        if kind == Kind::Integer && attributes.float {
            kind = Kind::Float;
        }
        let name = self.text(attributes.name)?;
        let named = matches!(
            kind,
            Kind::Record | Kind::Union | Kind::Enumeration | Kind::Typedef
        );
        let mut target = attributes.target;
        if matches!(kind, Kind::Record | Kind::Union) {
            // What stands for a type in a unit of its own.
            if matches!(target, Reference::Signature(_)) {
                kind = Kind::Qualified;
            } else {
                target = attributes.origin;
            }
        }
        self.types.nodes.push(Node {
            offset,
            kind,
            name: if named {
                name.map(|name| self.qualify(name))
            } else {
                name
            },
            size: attributes.size,
            target,
            counts: Vec::new(),
            members: Vec::new(),
            complete: !attributes.declaration,
            file: (self.unit.start, attributes.file),
        });
        Ok(self.types.nodes.len() - 1)
    }
}

fn is_wanted(tag: DwTag) -> bool {
    kind_of(tag) != Kind::Opaque
        || matches!(
            tag,
            dw::DW_TAG_namespace
                | dw::DW_TAG_subprogram
                | dw::DW_TAG_variant
                | dw::DW_TAG_variant_part
                | dw::DW_TAG_subrange_type
                | dw::DW_TAG_member
                | dw::DW_TAG_inheritance
                | dw::DW_TAG_variable
                | dw::DW_TAG_ptr_to_member_type
                | dw::DW_TAG_unspecified_type
        )
}

fn kind_of(tag: DwTag) -> Kind {
    match tag {
        dw::DW_TAG_structure_type | dw::DW_TAG_class_type | dw::DW_TAG_interface_type => {
            Kind::Record
        }
        dw::DW_TAG_union_type => Kind::Union,
        dw::DW_TAG_enumeration_type => Kind::Enumeration,
        dw::DW_TAG_typedef => Kind::Typedef,
        dw::DW_TAG_base_type => Kind::Integer,
        dw::DW_TAG_pointer_type | dw::DW_TAG_reference_type | dw::DW_TAG_rvalue_reference_type => {
            Kind::Pointer
        }
        dw::DW_TAG_array_type => Kind::Array,
        dw::DW_TAG_const_type
        | dw::DW_TAG_volatile_type
        | dw::DW_TAG_restrict_type
        | dw::DW_TAG_atomic_type
        | dw::DW_TAG_immutable_type => Kind::Qualified,
        dw::DW_TAG_subroutine_type => Kind::Function,
        _ => Kind::Opaque,
    }
}
