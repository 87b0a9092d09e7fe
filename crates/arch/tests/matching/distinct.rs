//! A function matches itself and no other one, unless both are the same code.

use engraft_arch::matching::{FieldKind, Pattern};

use crate::VARIED;
use crate::linked_file::LinkedFile;
use crate::object_file::{Function, ObjectFile};
use crate::toolchain::{Build, Kind};

/// Whether one function may become the same instructions as the other one when it is linked,
/// whatever they refer to.
fn are_identical(one: &Function, other: &Function) -> bool {
    let fields = |function: &Function| {
        let fields = function.fields.iter();
        let mut fields: Vec<_> = fields
            .map(|field| (field.offset as usize, field.kind))
            .collect();
        fields.sort_by_key(|field| field.0);
        fields
    };
    let (ours, theirs) = (fields(one), fields(other));
    let (mut code, mut other_code) = (one.code.clone(), other.code.clone());
    if code.len() != other_code.len() || ours.len() != theirs.len() {
        return false;
    }
    for (&(at, kind), &(other_at, other_kind)) in ours.iter().zip(&theirs) {
        if at != other_at {
            return false;
        }
        // `mov` from a slot may become `lea`.
        if (kind, other_kind) == (FieldKind::Slot, FieldKind::Relative32)
            && (code[at - 2], other_code[at - 2]) == (0x8b, 0x8d)
        {
            code[at - 2] = 0x8d;
        } else if (kind, other_kind) == (FieldKind::TlsSlot, FieldKind::TlsOffset32)
            && (code[at - 2], other_code[at - 2]) == (0x03, 0x8d)
        {
            // So may `add`, with the sum's register as base.
            code[at - 2] = 0x8d;
            code[at - 1] = 0x80 | ((code[at - 1] >> 3) * 9);
        } else if kind != other_kind {
            return false;
        }
        code[at..at + kind.size()].fill(0);
        other_code[at..at + kind.size()].fill(0);
    }
    code == other_code
}

#[test]
fn functions_do_not_match_other_ones() {
    let directory = tempfile::tempdir().unwrap();
    let (mut pairs, mut twins, mut walks) = (0, 0, 0);
    for compiler in ["gcc", "clang"] {
        for kind in [Kind::Pie, Kind::Shared] {
            for level in ["-O0", "-O2"] {
                let build = Build::new(compiler, kind, &[level], &["bfd"]);
                let made = build.compile(directory.path(), VARIED);
                let object = ObjectFile::open(&made.sections);
                let linked = LinkedFile::open(&build.link(&made, "bfd"));
                for function in &object.functions {
                    let pattern = Pattern::new(&function.code, &function.fields);
                    for other in &object.functions {
                        let address = linked.functions(&other.name)[0];
                        let running = linked.bytes(address).expect("code");
                        let matches = pattern.match_at(address, running).is_ok();
                        let expected = are_identical(function, other);
                        let what = format!("{build}: {} at {}", function.name, other.name);
                        assert_eq!(matches, expected, "{what}");
                        let may_match = pattern.may_match(running);
                        assert!(may_match || !matches, "{what}");
                        pairs += 1;
                        twins += usize::from(matches);
                        walks += usize::from(may_match && !matches);
                    }
                }
            }
        }
    }
    println!("{pairs} pairs, {twins} identical, {walks} walks");
    assert!(twins > 0);
    assert!(
        walks < pairs / 10,
        "{walks} of {pairs} pairs were not ruled out"
    );
}
