//! What `compile` writes, and what it refuses.
#![allow(missing_docs)]

mod common;

use std::process::Command;

use common::{build_text, fixture, try_build};
use engraft_abi::{PARAM_ARRAY, ParamKind};
use engraft_module::{
    CompileErrorKind, CompileRequest, Contents, ModuleErrorKind, PatchModule, Placement, Region,
    Scope, compile, link,
};

#[test]
fn a_livepatch_tells_what_it_declares() {
    let (compiled, bytes) = try_build(&[fixture("patch.c")], "my-patch", &[]).unwrap();
    let module = compiled.module;
    assert_eq!(compiled.diagnostics, "");
    assert_eq!(module.name, "my_patch");
    assert!(module.is_livepatch());
    assert_eq!(module.info("license"), Some("GPL"));
    assert_eq!(module.info("nothing"), None);
    let patches = module.declared_patches();
    let [patch] = &patches[..] else {
        panic!("{patches:?}");
    };
    assert!(patch.replace);
    let [state] = &patch.states[..] else {
        panic!("{:?}", patch.states);
    };
    assert_eq!((state.id, state.version), (7, 3));
    assert!(patch.settled);
    let [program, library] = &patch.objects[..] else {
        panic!("{patch:?}");
    };
    assert_eq!(
        (&program.name, &program.callbacks[..]),
        (&None, &["pre_patch"][..])
    );
    let functions: Vec<(&str, u64, &str)> = program
        .functions
        .iter()
        .map(|f| (&*f.old_name, f.old_sympos, &*f.new_func))
        .collect();
    assert_eq!(
        functions,
        [("compute", 2, "new_compute"), ("render", 0, "new_render")]
    );
    assert_eq!(library.name.as_deref(), Some("libfoo.so.1"));
    assert!(library.functions.is_empty() && library.callbacks.is_empty());
    // The name comes from the contents, not from where the file has been moved to.
    let moved = PatchModule::parse(&bytes, "elsewhere.lp").unwrap();
    assert_eq!(moved.name, "my_patch");
}

#[test]
fn what_an_init_function_sets_is_not_settled() {
    let text = std::fs::read_to_string(fixture("patch.c")).unwrap();
    let init = "return klp_enable_patch(&";
    assert!(text.contains(init), "{text}");
    for (setting, flags) in [
        ("patch.replace = limit;", "-O2"),
        ("patch.replace = limit;", "-O0"),
        ("states[0].version = limit;", "-O2"),
        ("states[0].version = limit;", "-O0"),
        ("states[0].version = 70000;", "-O2"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let source = directory.path().join("set.c");
        std::fs::write(
            &source,
            text.replacen(init, &format!("{setting} {init}"), 1),
        )
        .unwrap();
        let (compiled, _) = try_build(&[source], "set", &[flags]).unwrap();
        let patches = compiled.module.declared_patches();
        assert_eq!(patches.len(), 1, "{setting} {flags}");
        assert!(!patches[0].settled, "{setting} {flags}");
    }
}

#[test]
fn parameters_get_the_addresses_of_their_variables() {
    let (compiled, _) = try_build(&[fixture("patch.c")], "params", &[]).unwrap();
    let module = compiled.module;
    let mut params: Vec<_> = module
        .params
        .iter()
        .map(|p| (&*p.name, p.kind, p.array))
        .collect();
    params.sort_unstable_by_key(|param| param.0);
    assert_eq!(
        params,
        [
            ("label", ParamKind::Charp, false),
            ("limit", ParamKind::Int, false)
        ]
    );
    let placement = Placement {
        text: 0x10_0000,
        read_only: 0x20_0000,
        data: 0x30_0000,
    };
    let names = common::Names::of([(
        "klp_enable_patch",
        engraft_module::Resolved::Address(0x40_0000),
    )]);
    let linked = link(&module, &placement, &names).unwrap();
    let limit = linked
        .params
        .iter()
        .find(|param| param.name == "limit")
        .unwrap();
    assert_eq!(Some(limit.record.variable), linked.symbol("limit"));
    assert_eq!(limit.record.kind & PARAM_ARRAY, 0);
    assert_eq!(limit.record.elements, 1);
    let offset = (limit.record.variable - placement.data) as usize;
    assert_eq!(linked.data[offset..offset + 4], 5i32.to_le_bytes());
    assert_eq!(linked.init, linked.symbol("init_module"));
    assert!(linked.init.is_some() && linked.exit.is_some());
    let this_module = (linked.this_module.unwrap() - placement.data) as usize;
    assert_eq!(&linked.data[this_module + 4..][..7], b"params\0");
}

#[test]
fn merges_several_sources() {
    let directory = tempfile::tempdir().unwrap();
    let sources = [
        ("a.c", "#include <linux/module.h>\nint shared(void);\nstatic int init(void) { return shared(); }\nmodule_init(init);\nMODULE_LICENSE(\"GPL\");"),
        ("b.cpp", "extern \"C\" {\n#include <linux/module.h>\n}\nstatic int helper() { return 4; }\nextern \"C\" int shared() { return helper(); }"),
    ]
    .map(|(name, text)| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    });
    let (compiled, _) = try_build(&sources, "merged", &[]).unwrap();
    assert!(compiled.module.references().is_empty());
    let mut functions: Vec<&str> = compiled.module.functions().map(|f| &*f.name).collect();
    functions.sort_unstable();
    assert!(
        functions.contains(&"shared") && functions.contains(&"init_module"),
        "{functions:?}"
    );
    assert_eq!(compiled.module.name, "merged");
}

#[test]
fn passes_flags_and_the_compilers_words_on() {
    let error = build_text("int f(void) { return UNKNOWN; }", "c", &[]).unwrap_err();
    assert!(matches!(error.kind, CompileErrorKind::Failed { .. }));
    assert!(error.to_string().contains("UNKNOWN"), "{error}");
    let module = build_text("int f(void) { return UNKNOWN; }", "c", &["-DUNKNOWN=3"]).unwrap();
    assert_eq!(module.functions().count(), 1);
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("w.c");
    std::fs::write(&source, "#warning loud\nint f(void) { return 1; }").unwrap();
    let (compiled, _) = try_build(&[source], "w", &[]).unwrap();
    assert!(compiled.diagnostics.contains("loud"));
}

#[test]
fn a_failed_compilation_leaves_the_old_file() {
    let directory = tempfile::tempdir().unwrap();
    let output = directory.path().join("x.lp");
    std::fs::write(&output, "old").unwrap();
    let source = directory.path().join("x.c");
    std::fs::write(&source, "__thread int fresh; int f(void) { return fresh; }").unwrap();
    let request = CompileRequest {
        sources: vec![source.clone()],
        output: output.clone(),
        flags: Vec::new(),
        ..CompileRequest::default()
    };
    compile(&request).unwrap_err();
    assert_eq!(std::fs::read(&output).unwrap(), b"old");
    std::fs::write(&source, "int f(void) { return 1; }").unwrap();
    compile(&request).unwrap();
    assert_eq!(std::fs::read(&output).unwrap()[..4], *b"\x7fELF");
    assert_eq!(
        std::fs::read_dir(directory.path()).unwrap().count(),
        2,
        "no temporary files"
    );
}

fn refusal(text: &str, extension: &str, flags: &[&str]) -> ModuleErrorKind {
    match build_text(text, extension, flags)
        .map(|_| ())
        .unwrap_err()
        .kind
    {
        CompileErrorKind::Module(error) => error.kind,
        other => panic!("{other}"),
    }
}

#[test]
fn refuses_what_a_running_program_cannot_be_given() {
    for flags in [&[][..], &["-ftls-model=local-dynamic"]] {
        let fresh = "static __thread int fresh; int *f(void) { return &fresh; }";
        let ModuleErrorKind::NewThreadLocal(variable) = refusal(fresh, "c", flags) else {
            panic!();
        };
        assert_eq!(variable, "fresh");
    }
    let constructor = "int x; __attribute__((constructor)) static void early(void) { x = 1; }";
    let ModuleErrorKind::Constructor { function, section } = refusal(constructor, "c", &[]) else {
        panic!();
    };
    assert_eq!((&*function, &*section), ("early", ".init_array"));
    let common = refusal("int shared;", "c", &["-fcommon"]);
    assert_eq!(common, ModuleErrorKind::Common("shared".into()));
    let dynamic = "struct S { S(); }; S s;";
    assert!(matches!(
        refusal(dynamic, "cc", &[]),
        ModuleErrorKind::Constructor { .. }
    ));
    let large = refusal(
        "extern int x; int f(void) { return x; }",
        "c",
        &["-mcmodel=large"],
    );
    assert!(large.to_string().contains("-mcmodel"), "{large}");
}

#[test]
fn refuses_names_and_files_it_cannot_use() {
    let source = fixture("calls.c");
    let error = try_build(&[source], "a.b", &[]).unwrap_err();
    assert!(matches!(error.kind, CompileErrorKind::Name(_)));
    let error = try_build(&[], "x", &[]).unwrap_err();
    assert!(matches!(error.kind, CompileErrorKind::NoSource));
    let error = try_build(&["x.rs".into()], "x", &[]).unwrap_err();
    assert!(matches!(error.kind, CompileErrorKind::UnknownLanguage(_)));
    let own = std::fs::read("/proc/self/exe").unwrap();
    let error = PatchModule::parse(&own, "exe").unwrap_err();
    assert!(
        matches!(error.kind, ModuleErrorKind::NotRelocatable(3)),
        "{error}"
    );
    let narrow = common::assemble(".code32\nnop\n");
    let mut class = narrow.clone();
    class[4] = 1;
    let error = PatchModule::parse(&class, "x").unwrap_err();
    assert_eq!(error.kind, ModuleErrorKind::ThirtyTwoBit);
    let mut machine = narrow;
    machine[18] = 183;
    let error = PatchModule::parse(&machine, "x").unwrap_err();
    assert_eq!(error.kind, ModuleErrorKind::ForeignMachine(183));
}

#[test]
fn refuses_unsupported_relocations_by_name() {
    for (relocation, name) in [
        ("R_X86_64_16", "R_X86_64_16"),
        ("R_X86_64_8", "R_X86_64_8"),
        ("R_X86_64_SIZE64", "R_X86_64_SIZE64"),
        ("R_X86_64_GOTOFF64", "R_X86_64_GOTOFF64"),
        ("R_X86_64_DTPOFF32", "shadow variable"),
        ("R_X86_64_TLSLD", "shadow variable"),
        ("R_X86_64_COPY", "R_X86_64_COPY"),
    ] {
        let text = format!(".text\n.quad 0, 0\n.reloc 4, {relocation}, far\n");
        let error = PatchModule::parse(&common::assemble(&text), "x.lp").unwrap_err();
        let message = error.to_string();
        assert!(
            message.contains(name) && message.contains("'far' at '.text'+0x4"),
            "{message}"
        );
    }
    let mut outside = common::assemble(".text\n.quad 0\n.reloc 4, R_X86_64_PC32, far\n");
    let is_entry = |bytes: &[u8]| bytes[..8] == 4u64.to_le_bytes() && bytes[8..12] == [2, 0, 0, 0];
    let entry = outside.windows(16).position(is_entry).unwrap();
    outside[entry] = 5;
    let error = PatchModule::parse(&outside, "x.lp").unwrap_err();
    assert!(error.to_string().contains("outside the section"), "{error}");
    let sequence = ".text\n.quad 0, 0, 0, 0\n.reloc 8, R_X86_64_TLSGD, far\n";
    let error = PatchModule::parse(&common::assemble(sequence), "x.lp").unwrap_err();
    assert!(
        error.to_string().contains("unknown instruction sequence"),
        "{error}"
    );
}

#[test]
fn classifies_sections() {
    let module = common::build("calls.c", &[]);
    let region = |name: &str| {
        let section = module.sections.iter().find(|section| section.name == name);
        section.map(|section| section.region)
    };
    assert_eq!(region(".text.count"), Some(Region::Text));
    assert_eq!(region(".eh_frame"), Some(Region::ReadOnly));
    assert_eq!(region(".data.rel.ro.local.words"), Some(Region::ReadOnly));
    assert_eq!(region(".bss.zeroed"), Some(Region::Data));
    assert_eq!(region(".comment"), None);
    assert_eq!(region(".note.GNU-stack"), None);
    let zeroed = module
        .sections
        .iter()
        .find(|s| s.name == ".bss.zeroed")
        .unwrap();
    assert!(matches!(zeroed.contents, Contents::Zero(4000)));
}

/// Renames a symbol with objcopy, since compilers do not accept such names.
fn rename_symbol(object: &[u8], from: &str, to: &str) -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.o");
    std::fs::write(&path, object).unwrap();
    let status = Command::new("objcopy")
        .arg(format!("--redefine-sym={from}={to}"))
        .arg(&path)
        .status()
        .unwrap();
    assert!(status.success());
    std::fs::read(path).unwrap()
}

#[test]
fn understands_livepatch_symbols() {
    let object = common::assemble(".text\ncall far@PLT\nmov near@GOTPCREL(%rip), %rax\n");
    let object = rename_symbol(&object, "far", ".klp.sym.libc.so.6.malloc.part.0,2");
    let object = rename_symbol(&object, "near", ".klp.sym.vmlinux.counter,0");
    let module = PatchModule::parse(&object, "x.lp").unwrap();
    let mut references: Vec<_> = module
        .references()
        .into_iter()
        .map(|r| (r.name.clone(), r.scope.clone(), r.sympos))
        .collect();
    references.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(
        references,
        [
            ("counter".to_owned(), Scope::Executable, 0),
            (
                "malloc.part.0".to_owned(),
                Scope::Object("libc.so.6".into()),
                2
            ),
        ]
    );
    let bad = rename_symbol(
        &common::assemble("call far@PLT\n"),
        "far",
        ".klp.sym.vmlinux.f",
    );
    let error = PatchModule::parse(&bad, "x.lp").unwrap_err();
    assert_eq!(
        error.kind,
        ModuleErrorKind::LivepatchSymbolName(".klp.sym.vmlinux.f".into())
    );
}

#[test]
fn waits_for_absent_objects() {
    let object = common::assemble(".text\ncall far@PLT\n");
    let object = rename_symbol(&object, "far", ".klp.sym.libfoo.so.foo,0");
    let module = PatchModule::parse(&object, "x.lp").unwrap();
    let placement = Placement {
        text: 0x10_0000,
        read_only: 0x20_0000,
        data: 0x30_0000,
    };
    let before = link(&module, &placement, &common::Names::default()).unwrap();
    assert_eq!(before.absent, ["libfoo.so"]);
    let far = 0x7fff_0000_1234u64;
    let names = common::Names::of([("foo", engraft_module::Resolved::Address(far))]);
    let after = link(&module, &placement, &names).unwrap();
    assert!(after.absent.is_empty());
    assert_eq!(before.text, after.text, "only the slot changes");
    assert_ne!(before.read_only, after.read_only);
    assert!(
        after
            .read_only
            .windows(8)
            .any(|slot| slot == far.to_le_bytes())
    );
    assert!(
        !before
            .read_only
            .windows(8)
            .any(|slot| slot == far.to_le_bytes())
    );
}

/// Gives a relocation section another name with the `object` crate's builder.
fn rename_section(object: &[u8], from: &str, to: &'static str) -> Vec<u8> {
    let mut builder = object::build::elf::Builder::read(object).unwrap();
    let section = builder
        .sections
        .iter_mut()
        .find(|section| section.name.as_slice() == from.as_bytes())
        .unwrap();
    section.name = to.as_bytes().into();
    let mut bytes = Vec::new();
    builder.write(&mut bytes).unwrap();
    bytes
}

#[test]
fn checks_livepatch_relocation_sections() {
    let plain = common::assemble(".text\ncall far@PLT\n");
    let parse = |object: &[u8], name: &'static str| {
        PatchModule::parse(&rename_section(object, ".rela.text", name), "x.lp")
    };
    let error = parse(&plain, ".klp.rela.vmlinux..text").unwrap_err();
    assert_eq!(
        error.kind,
        ModuleErrorKind::NotALivepatchSymbol("far".into())
    );
    let own = rename_symbol(&plain, "far", ".klp.sym.vmlinux.far,1");
    let module = parse(&own, ".klp.rela.vmlinux..text").unwrap();
    assert_eq!(module.references()[0].scope, Scope::Executable);
    let error = parse(&own, ".klp.rela.ext4..text").unwrap_err();
    assert!(
        matches!(error.kind, ModuleErrorKind::ForeignSectionAccess { .. }),
        "{error}"
    );
    let error = parse(&own, ".klp.rela.vmlinux").unwrap_err();
    assert!(
        matches!(error.kind, ModuleErrorKind::LivepatchSectionName(_)),
        "{error}"
    );
}

#[test]
fn the_samples_compile() {
    let samples = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../samples");
    let mut compiled = 0;
    for entry in std::fs::read_dir(samples).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        if path.extension().is_none_or(|e| e != "c") || !text.contains("<linux/livepatch.h>") {
            continue;
        }
        match try_build(&[path], &name, &[]) {
            Ok((result, _)) => assert_eq!(result.module.name, name.replace('-', "_")),
            Err(error) => panic!("{error}"),
        }
        compiled += 1;
    }
    assert!(compiled > 0, "no samples found");
}
