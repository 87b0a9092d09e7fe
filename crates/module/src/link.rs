//! Linking, in phases: arrange, check the placement, resolve every reference, and only when
//! all of them have values apply the relocations.

mod apply;
mod values;

use std::collections::BTreeMap;

use engraft_abi::ParamRecord;

use crate::{
    Definition, Layout, LinkError, LinkErrorKind, Linked, LinkedFunction, LinkedParam, PatchModule,
    Placement, Region, Resolve, SymbolKind,
};

use apply::Applied;
use values::Values;

const REGIONS: [Region; 3] = [Region::Text, Region::ReadOnly, Region::Data];
/// Reach of a signed 32-bit distance, less room for the addends of ordinary accesses.
const MAX_SPAN: u64 = (1 << 31) - (1 << 16);

/// Links `module` to `placement` and binds its references through `resolver`. The result
/// depends on nothing else: linking again with the same placement changes only the places
/// whose references have changed values.
///
/// # Errors
///
/// [`LinkError`] when the placement does not fit [`Layout::of`], when references have no
/// value (all are listed), or when relocations do not reach (all are listed).
pub fn link(
    module: &PatchModule,
    placement: &Placement,
    resolver: &dyn Resolve,
) -> Result<Linked, LinkError> {
    try_link(module, placement, resolver).map_err(|kind| LinkError {
        module: module.name.clone(),
        kind,
    })
}

fn try_link(
    module: &PatchModule,
    placement: &Placement,
    resolver: &dyn Resolve,
) -> Result<Linked, LinkErrorKind> {
    let layout = Layout::of(module);
    check_placement(&layout, placement)?;
    let values = Values::resolve(module, &layout, placement, resolver)?;
    let applied = Applied::apply(module, &layout, placement, &values)?;
    let symbols = name_symbols(module, &values);
    let stubs = placement.text + layout.stubs_start;
    let mut linked = Linked {
        placement: *placement,
        init: symbols.get("init_module").copied(),
        exit: symbols.get("cleanup_module").copied(),
        this_module: symbols.get("__this_module").copied(),
        params: Vec::new(),
        eh_frame: layout
            .eh_frame
            .map(|(start, end)| placement.read_only + start..placement.read_only + end),
        functions: list_functions(module, &values),
        stubs: stubs..stubs + layout.stubs_size(),
        ifuncs: applied.ifuncs,
        bindings: applied.bindings,
        fixed: applied.fixed,
        absent: values.absent,
        relocations: applied.relocations,
        symbols,
        text: applied.text,
        read_only: applied.read_only,
        data: applied.data,
    };
    linked.params = read_params(module, &layout, &linked);
    Ok(linked)
}

fn check_placement(layout: &Layout, placement: &Placement) -> Result<(), LinkErrorKind> {
    let mut ranges = Vec::new();
    for region in REGIONS {
        let room = layout.room(region);
        if room.size == 0 {
            continue;
        }
        let address = placement.address(region);
        let end = address
            .checked_add(room.size)
            .filter(|_| address.is_multiple_of(room.alignment))
            .ok_or(LinkErrorKind::Misplaced { region, address })?;
        ranges.push((address, end));
    }
    ranges.sort_unstable();
    let overlap = ranges.windows(2).any(|pair| pair[0].1 > pair[1].0);
    let start = ranges.first().map_or(0, |range| range.0);
    let end = ranges.last().map_or(0, |range| range.1);
    if overlap || end - start > MAX_SPAN {
        return Err(LinkErrorKind::Arrangement);
    }
    Ok(())
}

/// Addresses by name: of global symbols, and of local ones whose name is used only once.
fn name_symbols(module: &PatchModule, values: &Values) -> BTreeMap<String, u64> {
    let mut names: BTreeMap<String, (bool, Option<u64>)> = BTreeMap::new();
    for (index, symbol) in module.symbols.iter().enumerate() {
        let named = symbol.kind != SymbolKind::Section && !symbol.name.is_empty();
        let Some(address) = values.definition(index).filter(|_| named) else {
            continue;
        };
        names
            .entry(symbol.name.clone())
            .and_modify(|known| {
                if symbol.global {
                    *known = (true, Some(address));
                } else if !known.0 {
                    known.1 = None;
                }
            })
            .or_insert((symbol.global, Some(address)));
    }
    let single = |(name, (_, address)): (String, (bool, Option<u64>))| Some((name, address?));
    names.into_iter().filter_map(single).collect()
}

fn list_functions(module: &PatchModule, values: &Values) -> Vec<LinkedFunction> {
    let mut functions: Vec<LinkedFunction> = module
        .symbols
        .iter()
        .enumerate()
        .filter(|(_, symbol)| matches!(symbol.kind, SymbolKind::Function | SymbolKind::Ifunc))
        .filter(|(_, symbol)| matches!(symbol.definition, Definition::Section { .. }))
        .filter_map(|(index, symbol)| {
            Some(LinkedFunction {
                symbol: index,
                name: symbol.name.clone(),
                address: values.definition(index)?,
                size: symbol.size,
            })
        })
        .collect();
    functions.sort_by_key(|function| function.address);
    functions
}

fn read_params(module: &PatchModule, layout: &Layout, linked: &Linked) -> Vec<LinkedParam> {
    let read = |param: &crate::Param| {
        let (section, offset) = param.place;
        let bytes = match module.sections[section].region {
            Region::Text => &linked.text,
            Region::ReadOnly => &linked.read_only,
            Region::Data => &linked.data,
        };
        let start = (layout.sections[section] + offset) as usize;
        let word = |index: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[start + index * 8..][..8]);
            u64::from_le_bytes(word)
        };
        LinkedParam {
            name: param.name.clone(),
            record: ParamRecord {
                name: word(0),
                variable: word(1),
                count: word(2),
                kind: word(3) as u32,
                elements: (word(3) >> 32) as u32,
            },
        }
    };
    module.params.iter().map(read).collect()
}
