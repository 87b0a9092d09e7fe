//! The value of every symbol, before anything is written.

use crate::{
    Definition, Layout, LinkErrorKind, PatchModule, Placement, Reference, Resolve, Resolved,
    SymbolKind, TlsIndex, Unresolved,
};

/// What a symbol stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Address(u64),
    TlsOffset(i64),
    TlsIndex(TlsIndex),
    /// Address of the resolver.
    Ifunc(u64),
    /// Of an object that is not loaded.
    Absent,
    /// No relocation uses it.
    Unused,
}

pub(super) struct Values {
    /// By index of the symbol.
    list: Vec<Value>,
    /// The symbol is defined by the module.
    defined: Vec<bool>,
    pub(super) absent: Vec<String>,
}

impl Values {
    pub(super) fn resolve(
        module: &PatchModule,
        layout: &Layout,
        placement: &Placement,
        resolver: &dyn Resolve,
    ) -> Result<Self, LinkErrorKind> {
        let mut values = Self {
            list: Vec::with_capacity(module.symbols.len()),
            defined: Vec::with_capacity(module.symbols.len()),
            absent: Vec::new(),
        };
        for symbol in &module.symbols {
            let value = match symbol.definition {
                Definition::Section { section, offset } => {
                    let region = placement.address(module.sections[section].region);
                    let address = region + layout.sections[section] + offset;
                    match symbol.kind {
                        SymbolKind::Ifunc => Value::Ifunc(address),
                        _ => Value::Address(address),
                    }
                }
                Definition::Absolute(number) => Value::Address(number),
                Definition::Dropped | Definition::Undefined(_) => Value::Unused,
            };
            values.list.push(value);
            values
                .defined
                .push(matches!(symbol.definition, Definition::Section { .. }));
        }
        values.resolve_references(module, resolver)?;
        Ok(values)
    }

    pub(super) fn get(&self, symbol: usize) -> Value {
        self.list[symbol]
    }

    /// Address of a symbol that the module defines.
    pub(super) fn definition(&self, symbol: usize) -> Option<u64> {
        match self.list[symbol] {
            Value::Address(address) | Value::Ifunc(address) if self.defined[symbol] => {
                Some(address)
            }
            _ => None,
        }
    }

    fn resolve_references(
        &mut self,
        module: &PatchModule,
        resolver: &dyn Resolve,
    ) -> Result<(), LinkErrorKind> {
        let mut unresolved = Vec::new();
        for (index, reference) in module.used_references() {
            match resolve_one(module, reference, resolver) {
                Ok(value) => {
                    self.list[index] = value;
                    if let (Value::Absent, Some(object)) = (value, module.object_of(reference)) {
                        self.absent.push(object.to_owned());
                    }
                }
                Err(failure) => unresolved.push(failure),
            }
        }
        self.absent.sort_unstable();
        self.absent.dedup();
        if unresolved.is_empty() {
            Ok(())
        } else {
            Err(LinkErrorKind::Unresolved(unresolved))
        }
    }
}

fn resolve_one(
    module: &PatchModule,
    reference: &Reference,
    resolver: &dyn Resolve,
) -> Result<Value, Unresolved> {
    let fail = |reason| Unresolved {
        reference: reference.clone(),
        reason,
    };
    let resolved = match resolver.resolve(reference) {
        Ok(resolved) => resolved,
        Err(_) if reference.weak && !reference.thread_local => return Ok(Value::Address(0)),
        Err(reason) => return Err(fail(reason)),
    };
    match resolved {
        Resolved::Absent if module.object_of(reference).is_some() => Ok(Value::Absent),
        Resolved::Absent => Err(fail("no object is named that could be loaded later".into())),
        Resolved::TlsOffset(offset) if reference.thread_local => Ok(Value::TlsOffset(offset)),
        Resolved::TlsIndex(index) if reference.thread_local => Ok(Value::TlsIndex(index)),
        Resolved::TlsOffset(_) | Resolved::TlsIndex(_) => {
            Err(fail("it is a thread-local variable there".into()))
        }
        _ if reference.thread_local => Err(fail("it is not a thread-local variable there".into())),
        Resolved::Address(address) => Ok(Value::Address(address)),
        Resolved::Ifunc(address) => Ok(Value::Ifunc(address)),
    }
}
