//! The odd cases, on directories that look like a kernel's interface.

use std::fs;
use std::path::Path;

use engraft_kernel::{Kernel, KernelModule, Task};
use nix::errno::Errno;

fn write(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().expect("directory")).expect("created");
    fs::write(path, text).expect("written");
}

fn kernel(root: &Path) -> Kernel {
    for (name, value) in [("enabled", "1\n"), ("transition", "0\n")] {
        write(root, &format!("sys/kernel/livepatch/old/{name}"), value);
        write(root, &format!("sys/kernel/livepatch/new/{name}"), value);
    }
    Kernel::below(root).expect("livepatch")
}

#[test]
fn a_kernel_without_livepatch_is_told_as_such() {
    let root = tempfile::tempdir().expect("directory");
    let error = Kernel::below(root.path()).expect_err("no livepatch");
    assert_eq!(error.errno(), Errno::ENOSYS);
    assert!(
        error.to_string().contains("/sys/kernel/livepatch"),
        "{error}"
    );
    assert!(
        error
            .help()
            .is_some_and(|help| help.contains("CONFIG_LIVEPATCH"))
    );
}

#[test]
fn what_a_kernel_does_not_have_is_unknown() {
    let root = tempfile::tempdir().expect("directory");
    let kernel = kernel(root.path());
    let old = "sys/kernel/livepatch/old";
    write(root.path(), &format!("{old}/vmlinux/do_thing,2/x"), "");
    write(root.path(), &format!("{old}/vmlinux/strange/x"), "");
    let patches = kernel.patches();
    assert_eq!(
        patches.iter().map(|p| &*p.name).collect::<Vec<_>>(),
        ["new", "old"]
    );
    let old = &patches[1];
    assert_eq!(
        (old.replace, old.stack_order, old.refcnt),
        (None, None, None)
    );
    assert_eq!(old.objects[0].patched, None);
    assert_eq!(old.objects[0].functions.len(), 1);
    assert_eq!(old.objects[0].functions[0].name, "do_thing");
    assert_eq!(old.objects[0].functions[0].sympos, 2);
}

#[test]
fn the_order_is_the_kernels() {
    let root = tempfile::tempdir().expect("directory");
    let kernel = kernel(root.path());
    for (name, order, replace) in [("old", "1", "0"), ("new", "2", "1")] {
        let patch = format!("sys/kernel/livepatch/{name}");
        write(root.path(), &format!("{patch}/stack_order"), order);
        write(root.path(), &format!("{patch}/replace"), replace);
        write(root.path(), &format!("{patch}/vmlinux/patched"), "1");
        write(root.path(), &format!("sys/module/{name}/refcnt"), "1");
    }
    let patches = kernel.patches();
    assert_eq!(
        patches.iter().map(|p| &*p.name).collect::<Vec<_>>(),
        ["old", "new"]
    );
    assert_eq!(
        (patches[1].replace, patches[1].refcnt),
        (Some(true), Some(1))
    );
    assert_eq!(patches[0].objects[0].patched, Some(true));
}

#[test]
fn tasks_that_are_not_switched_are_named_with_their_function() {
    let root = tempfile::tempdir().expect("directory");
    let kernel = kernel(root.path());
    let function = "sys/kernel/livepatch/old/vmlinux/do_thing,1/x";
    write(root.path(), function, "");
    let stack = "[<0>] schedule+0x12/0x40\n[<0>] do_thing+0x1/0x2\n[<0>] entry+0x3/0x4\n";
    for (path, state) in [
        ("10/task/10", "1"),
        ("10/task/11", "0"),
        ("12/task/12", "-1"),
    ] {
        write(root.path(), &format!("proc/{path}/patch_state"), state);
        write(root.path(), &format!("proc/{path}/comm"), "odd) name\n");
        write(
            root.path(),
            &format!("proc/{path}/stat"),
            "1 (odd) name) D 1 1\n",
        );
        write(root.path(), &format!("proc/{path}/stack"), stack);
    }
    // It ends while it is looked at.
    write(root.path(), "proc/13/task/13/comm", "gone\n");
    write(root.path(), "proc/version", "");
    let patches = kernel.patches();
    let tasks = kernel.tasks(&patches[1]);
    assert_eq!(tasks.total, 3);
    assert_eq!(kernel.count_tasks(), 4);
    let frames = ["schedule+0x12/0x40", "do_thing+0x1/0x2", "entry+0x3/0x4"];
    let wanted = Task {
        tid: 11,
        comm: "odd) name".to_owned(),
        state: 'D',
        stack: frames.map(str::to_owned).to_vec(),
    };
    assert_eq!(tasks.left, [wanted]);
    assert_eq!(
        tasks.left[0].function_of(&patches).as_deref(),
        Some("do_thing")
    );
    assert_eq!(tasks.left[0].function_of(&[]), None);
}

#[test]
fn what_is_not_there_is_refused_with_the_way_out() {
    let root = tempfile::tempdir().expect("directory");
    let kernel = kernel(root.path());
    let error = kernel.set_enabled("absent", false).expect_err("not there");
    assert_eq!(error.errno(), Errno::ENOENT);
    assert_eq!(error.help(), Some("load it first"));
    write(root.path(), "sys/module/off/refcnt", "0");
    let error = kernel.force("off").expect_err("not on the stack");
    assert!(
        error
            .help()
            .is_some_and(|help| help.contains("unload it, then load it again"))
    );
    let error = kernel.unload("absent").expect_err("not loaded");
    assert_eq!(error.errno(), Errno::ENOENT);
    kernel.set_enabled("old", false).expect("written");
    let written = fs::read_to_string(root.path().join("sys/kernel/livepatch/old/enabled"));
    assert_eq!(written.expect("there"), "0");
}

#[test]
fn a_module_for_another_kernel_is_refused_although_the_kernel_might_take_it() {
    let root = tempfile::tempdir().expect("directory");
    let kernel = kernel(root.path());
    write(root.path(), "proc/sys/kernel/osrelease", "6.1.0-57-amd64\n");
    let module = |vermagic: &str| KernelModule {
        name: "fix".to_owned(),
        livepatch: true,
        vermagic: vermagic.to_owned(),
        build_id: None,
    };
    let foreign = module("6.1.0-56-amd64 SMP modversions ");
    let said = "it was built for Linux 6.1.0-56-amd64, and this is 6.1.0-57-amd64";
    assert_eq!(kernel.check(&foreign), [said]);
    let error = kernel
        .load(Path::new("/dev/null"), &foreign, &[])
        .expect_err("another kernel's");
    assert_eq!(error.errno(), Errno::ENOEXEC);
    assert!(error.to_string().ends_with(said), "{error}");
    assert!(
        kernel
            .check(&module("6.1.0-57-amd64 SMP modversions "))
            .is_empty()
    );
}

#[test]
fn files_that_are_no_modules_are_refused() {
    // It has no section .modinfo.
    let program = fs::read("/proc/self/exe").expect("this program");
    for bytes in [&b"text"[..], &program] {
        let error = KernelModule::parse(bytes, "fix.ko").expect_err("no module");
        assert_eq!(error.errno(), Errno::ENOEXEC);
        assert!(
            error
                .to_string()
                .starts_with("fix.ko: it is no kernel module"),
            "{error}"
        );
    }
}
