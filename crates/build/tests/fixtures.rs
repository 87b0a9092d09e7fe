//! Every class of change by a fixture named after it: what is built or refused, and that a
//! running program behaves as the changed source says.

mod support;

use support::{Built, Fixture, build};

fn check(name: &str) {
    let fixture = Fixture::read(name);
    for case in fixture.cases() {
        let built = build(&fixture, case.flags);
        check_report(&fixture, case.flags, case.expect, &built);
    }
}

fn check_report(fixture: &Fixture, flags: &str, expected: &str, built: &Built) {
    let what = format!("{} {flags}", fixture.name);
    let report = match (&built.report, expected.strip_prefix("error(")) {
        (Ok(report), None) => report,
        (Err(error), Some(text)) => {
            let text = text.trim_end_matches(')');
            assert!(error.to_string().contains(text), "{what}: {error}");
            assert!(error.help().is_some(), "{what}: {error}");
            assert!(!built.module().exists(), "{what}");
            return;
        }
        (Err(error), None) => panic!("{what}: {error}; help: {:?}", error.help()),
        (Ok(report), Some(text)) => panic!("{what}: no error '{text}': {report:#?}"),
    };
    let what = format!("{what}: {report:#?}");
    if let Some(refusal) = expected.strip_prefix("refused(") {
        let (name, text) = refusal
            .strip_suffix(')')
            .and_then(|refusal| refusal.split_once(": "))
            .expect("name");
        let found = report
            .refusals
            .iter()
            .any(|refusal| refusal.name == name && refusal.to_string().contains(text));
        assert!(found, "{what}");
        let named = report.refusals.iter().all(|refusal| refusal.name == name);
        assert!(named, "nothing else is refused: {what}");
        assert!(!built.module().exists(), "{what}");
        return;
    }
    assert!(report.refusals.is_empty(), "{what}");
    let replaced = report
        .replaced
        .iter()
        .map(|replaced| match replaced.sympos {
            0 => replaced.name.clone(),
            position => format!("{},{position}", replaced.name),
        });
    match expected.strip_prefix("replaced(") {
        Some(names) => {
            let names = names.trim_end_matches(')').split(", ").collect();
            assert_eq!(sorted(replaced), sorted_names(names), "{what}");
            assert!(built.module().exists(), "{what}");
        }
        None => {
            assert_eq!(expected, "unchanged", "{what}");
            assert_eq!(replaced.count(), 0, "{what}");
            assert!(!built.module().exists(), "{what}");
        }
    }
    let added = report.added.iter().map(|added| added.name.clone());
    if let Some(names) = fixture.list("Added") {
        assert_eq!(sorted(added), sorted_names(names), "{what}");
    }
    let ignored = report.ignored.iter();
    let ignored = ignored.map(|ignored| format!("{} {:?}", ignored.name, ignored.what));
    if let Some(names) = fixture.list("Ignored") {
        assert_eq!(sorted(ignored), sorted_names(names), "{what}");
    }
    let handled = report.handled.iter().map(|refusal| refusal.name.clone());
    let names = fixture.list("Handled").unwrap_or_default();
    assert_eq!(sorted(handled), sorted_names(names), "{what}");
}

fn sorted(names: impl Iterator<Item = String>) -> Vec<String> {
    let mut names: Vec<String> = names.collect();
    names.sort_unstable();
    names
}

fn sorted_names(names: Vec<&str>) -> Vec<String> {
    sorted(names.into_iter().map(str::to_owned))
}

macro_rules! fixtures {
    ($($name:ident: $file:literal;)*) => {
        $(#[test]
        fn $name() {
            check($file);
        })*
    };
}

fixtures! {
    alias: "alias.c";
    array_fillers: "array_fillers.c";
    become_static: "become_static.c";
    changed_initial_value: "changed_initial_value.c";
    changed_size: "changed_size.c";
    changed_value_through_pointer: "changed_value_through_pointer.c";
    cold_part: "cold_part.c";
    cold_part_only: "cold_part_only.c";
    comdat: "comdat.cc";
    constant_propagation: "constant_propagation.c";
    constant_table: "constant_table.c";
    constants_among_texts: "constants_among_texts.c";
    constructor: "constructor.c";
    equal_names: "equal_names.c";
    equal_names_both: "equal_names_both.c";
    exception_table: "exception_table.cc";
    exceptions: "exceptions.cc";
    function_pointer: "function_pointer.c";
    gone_function: "gone_function.c";
    ifunc: "ifunc.c";
    inline_assembly: "inline_assembly.c";
    inlined_callee: "inlined_callee.c";
    jump_table: "jump_table.c";
    jump_table_variants: "jump_table_variants.c";
    label_table: "label_table.c";
    layout_bit_field: "layout_bit_field.c";
    layout_class: "layout_class.cc";
    layout_handled: "layout_handled.c";
    layout_handled_by_name: "layout_handled_by_name.c";
    layout_kept: "layout_kept.c";
    layout_member_added: "layout_member_added.c";
    layout_on_stacks: "layout_on_stacks.c";
    layout_union: "layout_union.c";
    layout_unknown: "layout_unknown.c";
    layout_without_names: "layout_without_names.c";
    levels: "levels.c";
    line_numbers: "line_numbers.c";
    lto: "lto.c";
    merged_functions: "merged_functions.c";
    new_data: "new_data.c";
    new_function_elsewhere: "new_function_elsewhere.c";
    newly_inlined: "newly_inlined.c";
    newly_used_variable: "newly_used_variable.c";
    no_longer_inlined: "no_longer_inlined.c";
    own_section: "own_section.c";
    scalar_replacement: "scalar_replacement.c";
    signature: "signature.c";
    source_paths: "source_paths.c";
    split_function: "split_function.c";
    static_local: "static_local.c";
    static_local_several: "static_local_several.c";
    static_local_uncertain: "static_local_uncertain.c";
    static_objects: "static_objects.cc";
    string_literal: "string_literal.c";
    templates: "templates.cc";
    tls: "tls.c";
    unchanged: "unchanged.c";
    virtual_method: "virtual_method.cc";
    weak: "weak.c";
}
