//! include/linux and samples, under the compilers that are used.

use std::fmt::Write as _;
use std::fs;
use std::mem::{offset_of, size_of};
use std::path::{Path, PathBuf};
use std::process::Command;

use engraft_abi::{
    HEADERS_VERSION, KlpCallbacks, KlpFunc, KlpObject, KlpPatch, KlpState, KlpStateCallbacks,
    MODULE_NAME_LEN, Module, ModuleState, PARAM_ARRAY, ParamKind, ParamRecord,
};
use object::read::elf::ElfFile64;
use object::{Object as _, ObjectSection as _, ObjectSymbol as _};

const FLAGS: [&str; 12] = [
    "-O2",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wno-unused-parameter",
    "-fPIC",
    "-fno-common",
    "-ftls-model=initial-exec",
    "-D__ENGRAFT__",
    "-DKBUILD_MODNAME=\"test_module\"",
    "-D_GNU_SOURCE",
    "-c",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Compiles `source` with `compiler` (a command and its first arguments); the object's bytes.
fn compile(compiler: &str, source: &Path) -> Vec<u8> {
    let mut words = compiler.split(' ');
    let name = format!(
        "{}.{}.o",
        compiler.replace(' ', "_"),
        source.file_stem().unwrap().display()
    );
    let object = scratch().join(name);
    let output = Command::new(words.next().unwrap())
        .args(words)
        .args(FLAGS)
        .arg("-I")
        .arg(root().join("include"))
        .arg("-o")
        .args([object.as_path(), source])
        .output()
        .unwrap_or_else(|error| panic!("{compiler}: {error}"));
    let messages = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{compiler} {}:\n{messages}",
        source.display()
    );
    fs::read(object).unwrap()
}

fn scratch() -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("headers");
    fs::create_dir_all(&directory).unwrap();
    directory
}

fn write_source(name: &str, text: &str) -> PathBuf {
    let path = scratch().join(name);
    fs::write(&path, text).unwrap();
    path
}

const C_COMPILERS: [&str; 5] = [
    "gcc",
    "gcc -std=gnu99",
    "gcc -std=c11 -m64",
    "clang",
    "musl-gcc",
];
const CXX_COMPILERS: [&str; 2] = ["g++ -x c++", "clang++ -x c++"];

#[test]
fn structures_are_laid_out_as_the_abi_says() {
    let mut text = String::from("#include <linux/livepatch.h>\n");
    macro_rules! check {
        ($c:literal, $rust:ty $(, $c_field:literal = $field:ident)*) => {
            writeln!(text, "_Static_assert(sizeof({}) == {}, \"\");", $c, size_of::<$rust>())
                .unwrap();
            $(writeln!(
                text,
                "_Static_assert(__builtin_offsetof({}, {}) == {}, \"\");",
                $c, $c_field, offset_of!($rust, $field)
            ).unwrap();)*
        };
    }
    check!(
        "struct klp_func",
        KlpFunc,
        "old_name" = old_name,
        "new_func" = new_func,
        "old_sympos" = old_sympos
    );
    check!(
        "struct klp_callbacks",
        KlpCallbacks,
        "pre_patch" = pre_patch,
        "post_patch" = post_patch,
        "pre_unpatch" = pre_unpatch,
        "post_unpatch" = post_unpatch,
        "post_unpatch_enabled" = post_unpatch_enabled
    );
    check!(
        "struct klp_object",
        KlpObject,
        "name" = name,
        "funcs" = funcs,
        "callbacks" = callbacks,
        "mod" = module
    );
    check!(
        "struct klp_state",
        KlpState,
        "id" = id,
        "version" = version,
        "data" = data,
        "callbacks" = callbacks,
        "is_shadow" = is_shadow,
        "block_disable" = block_disable
    );
    check!(
        "struct klp_state_callbacks",
        KlpStateCallbacks,
        "pre_patch" = pre_patch,
        "post_patch" = post_patch,
        "pre_unpatch" = pre_unpatch,
        "post_unpatch" = post_unpatch,
        "shadow_dtor" = shadow_dtor
    );
    check!(
        "struct klp_patch",
        KlpPatch,
        "mod" = module,
        "objs" = objects,
        "states" = states,
        "replace" = replace,
        "enabled" = enabled,
        "replace_set" = replace_set
    );
    check!("struct module", Module, "state" = state, "name" = name);
    check!(
        "struct engraft_param",
        ParamRecord,
        "name" = name,
        "variable" = variable,
        "count" = count,
        "kind" = kind,
        "elements" = elements
    );
    let mut equal = |c: &str, value: u32| {
        writeln!(
            text,
            "_Static_assert((unsigned int)({c}) == {value}, \"\");"
        )
        .unwrap();
    };
    equal("MODULE_NAME_LEN", MODULE_NAME_LEN as u32);
    equal("MODULE_STATE_LIVE", ModuleState::Live as u32);
    equal("MODULE_STATE_COMING", ModuleState::Coming as u32);
    equal("MODULE_STATE_GOING", ModuleState::Going as u32);
    equal("MODULE_STATE_UNFORMED", ModuleState::Unformed as u32);
    equal("ENGRAFT_PARAM_IS_ARRAY", PARAM_ARRAY);
    for (name, kind) in [
        ("bool", ParamKind::Bool),
        ("byte", ParamKind::Byte),
        ("short", ParamKind::Short),
        ("ushort", ParamKind::Ushort),
        ("int", ParamKind::Int),
        ("uint", ParamKind::Uint),
        ("long", ParamKind::Long),
        ("ulong", ParamKind::Ulong),
        ("ullong", ParamKind::Ullong),
        ("charp", ParamKind::Charp),
    ] {
        // The typedefs' names are spelled out here: `bool` may be a macro.
        equal(&format!("ENGRAFT_PARAM_{name}"), kind as u32);
    }
    let source = write_source("layout.c", &text);
    for compiler in C_COMPILERS {
        compile(compiler, &source);
    }
}

/// Every header, libc's before and after them, and everything that defines a symbol.
const MODULE: &str = r#"
#include <stdio.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <linux/atomic.h>
#include <linux/bitops.h>
#include <linux/bug.h>
#include <linux/delay.h>
#include <linux/err.h>
#include <linux/gfp.h>
#include <linux/init.h>
#include <linux/jiffies.h>
#include <linux/kernel.h>
#include <linux/list.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/mutex.h>
#include <linux/printk.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/string.h>
#include <linux/types.h>
#include <linux/vmalloc.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <time.h>
#include <unistd.h>

static bool flag;
static int number, numbers[3];
static unsigned int count;
static char *text;
module_param(flag, bool, 0644);
module_param_named(renamed, number, int, 0);
module_param_array(numbers, int, &count, 0444);
module_param(text, charp, 0);
MODULE_PARM_DESC(text, "some text");

struct item {
	int value;
	struct list_head link;
};

static LIST_HEAD(items);
static DEFINE_MUTEX(items_mutex);
static DEFINE_SPINLOCK(items_lock);

#ifdef __cplusplus
extern "C" {
#endif
KLP_SYM(local_function, "vmlinux", "hidden", 2);
extern int local_function(int value);
KLP_SYM(local_variable, "libsome.so", "counter", 0);
extern int local_variable;
#ifdef __cplusplus
}
#endif

static int start(void)
{
	struct item *item = (struct item *)kzalloc(sizeof(*item), GFP_KERNEL), *next;
	atomic_t total = ATOMIC_INIT(0);

	if (!item)
		return -ENOMEM;
	mutex_lock(&items_mutex);
	spin_lock(&items_lock);
	list_add_tail(&item->link, &items);
	list_for_each_entry_safe(item, next, &items, link) {
		atomic_add(item->value, &total);
		list_del(&item->link);
		kfree(item);
	}
	spin_unlock(&items_lock);
	mutex_unlock(&items_mutex);
	if (WARN_ON_ONCE(!list_empty(&items)) || IS_ERR(ERR_PTR(-EINVAL)) != true)
		return -ERESTARTSYS;
	pr_info("%d of %zu\n", atomic_read(&total), ARRAY_SIZE(numbers));
	return local_function(local_variable);
}

static void stop(void)
{
	printf("%s\n", THIS_MODULE->name);
}

module_init(start);
module_exit(stop);
MODULE_LICENSE("Dual MIT/Apache-2.0");
MODULE_INFO(livepatch, "Y");
"#;

#[test]
fn a_module_gets_its_sections_and_symbols() {
    let source = write_source("module.c", MODULE);
    for compiler in C_COMPILERS.iter().chain(&CXX_COMPILERS) {
        let bytes = compile(compiler, &source);
        let file = ElfFile64::<object::Endianness>::parse(&*bytes).unwrap();
        let section = |name: &str| {
            let section = file
                .section_by_name(name)
                .unwrap_or_else(|| panic!("{compiler}: {name}"));
            section.data().unwrap().to_vec()
        };
        let mut info: Vec<String> = String::from_utf8(section(".modinfo"))
            .unwrap()
            .split_terminator('\0')
            .map(str::to_owned)
            .collect();
        info.sort();
        let version = format!("engraft={HEADERS_VERSION}");
        let expected = [
            &*version,
            "license=Dual MIT/Apache-2.0",
            "livepatch=Y",
            "parm=text:some text",
            "parmtype=flag:bool",
            "parmtype=numbers:array of int",
            "parmtype=renamed:int",
            "parmtype=text:charp",
        ];
        assert_eq!(info, expected, "{compiler}");
        assert_eq!(
            section("__param").len(),
            4 * size_of::<ParamRecord>(),
            "{compiler}"
        );

        let symbol = |name: &str| {
            let symbol = file.symbol_by_name(name);
            symbol.unwrap_or_else(|| panic!("{compiler}: no symbol {name}"))
        };
        let module = symbol("__this_module");
        assert!(module.is_weak() && module.size() == size_of::<Module>() as u64);
        let home = file
            .section_by_index(module.section_index().unwrap())
            .unwrap();
        let start = module.address() as usize + offset_of!(Module, name);
        assert_eq!(
            home.data().unwrap()[start..start + 12],
            *b"test_module\0",
            "{compiler}"
        );
        assert!(symbol("init_module").is_definition() && symbol("cleanup_module").is_definition());
        assert!(
            symbol(".klp.sym.vmlinux.hidden,2").is_undefined(),
            "{compiler}"
        );
        assert!(
            symbol(".klp.sym.libsome.so.counter,0").is_undefined(),
            "{compiler}"
        );
        let undefined = |name: &str| {
            file.symbols()
                .any(|s| s.is_undefined() && s.name() == Ok(name))
        };
        assert!(
            undefined("engraft_kfree") && !undefined("kfree"),
            "{compiler}"
        );
    }
}

#[test]
fn a_parameter_of_another_type_does_not_compile() {
    let text = "#include <linux/module.h>\nstatic long number;\nmodule_param(number, int, 0);\n";
    let source = write_source("wrong_parameter.c", text);
    let status = Command::new("gcc")
        .args(FLAGS)
        .arg("-I")
        .arg(root().join("include"))
        .args(["-o", "/dev/null"])
        .arg(source)
        .output()
        .unwrap();
    assert!(!status.status.success());
    assert!(String::from_utf8_lossy(&status.stderr).contains("incompatible"));
}

#[test]
fn everything_that_headers_declare_is_exported() {
    let directory = root().join("include/linux");
    let mut declared = 0;
    for entry in fs::read_dir(directory).unwrap() {
        let text = fs::read_to_string(entry.unwrap().path()).unwrap();
        for part in text.split("__ENGRAFT_NAME(").skip(1) {
            let name = &part[..part.find(')').unwrap()];
            if name != "name" {
                let name = format!("engraft_{name}");
                assert!(engraft_runtime::EXPORTS.contains(&name.as_str()), "{name}");
                declared += 1;
            }
        }
    }
    assert!(declared > 15);
}

fn samples(prefix: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(root().join("samples"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "c"))
        .filter(|path| {
            path.file_name()
                .unwrap()
                .to_str()
                .unwrap()
                .starts_with(prefix)
        })
        .collect();
    found.sort();
    found
}

#[test]
fn every_sample_compiles_without_a_warning() {
    let all = samples("");
    assert_eq!(all.len(), 9);
    for source in &all {
        for compiler in ["gcc", "clang", "musl-gcc"] {
            compile(compiler, source);
        }
    }
}

#[test]
fn every_sample_livepatch_says_that_it_is_one() {
    for name in [
        "sample",
        "callbacks-demo.",
        "callbacks-demo2",
        "shadow-fix1",
        "shadow-fix2",
    ] {
        let [source] = &samples(&format!("livepatch-{name}"))[..] else {
            panic!("{name}")
        };
        let bytes = compile("gcc", source);
        let file = ElfFile64::<object::Endianness>::parse(&*bytes).unwrap();
        let info = file.section_by_name(".modinfo").unwrap().data().unwrap();
        assert!(
            info.windows(12).any(|window| window == b"livepatch=Y\0"),
            "{name}"
        );
        let undefined = |name: &str| {
            file.symbols()
                .any(|s| s.is_undefined() && s.name() == Ok(name))
        };
        assert!(undefined("klp_enable_patch"), "{name}");
    }
}

#[test]
fn lists_keep_their_order() {
    let text = r#"
#include <assert.h>
#include <linux/kernel.h>
#include <linux/list.h>
struct item { int value; struct list_head link; };
static int digits(struct list_head *head)
{
	struct item *item;
	int all = 0;

	list_for_each_entry(item, head, link)
		all = 10 * all + item->value;
	list_for_each_entry_reverse(item, head, link)
		all = 10 * all + item->value;
	return all;
}
int main(void)
{
	LIST_HEAD(a);
	LIST_HEAD(b);
	struct item items[] = { { 1, { 0, 0 } }, { 2, { 0, 0 } }, { 3, { 0, 0 } }, { 4, { 0, 0 } } };

	assert(list_empty(&a) && digits(&a) == 0);
	list_add(&items[1].link, &a);
	list_add(&items[0].link, &a);
	list_add_tail(&items[2].link, &a);
	assert(digits(&a) == 123321);
	list_del(&items[1].link);
	list_del(&items[1].link);
	assert(digits(&a) == 1331);
	list_replace(&items[0].link, &items[3].link);
	assert(digits(&a) == 4334);
	list_move_tail(&items[3].link, &a);
	assert(digits(&a) == 3443 && !list_is_singular(&a));
	list_add(&items[0].link, &b);
	list_add(&items[1].link, &b);
	list_splice_init(&a, &b);
	assert(list_empty(&a) && digits(&b) == 34211243);
	assert(list_first_entry(&b, struct item, link) == &items[2]);
	assert(list_last_entry(&b, struct item, link)->value == 1);
	assert(list_first_entry_or_null(&a, struct item, link) == 0);
	assert(container_of(&items[2].link, struct item, link) == &items[2]);
	assert(min(3, 2) == 2 && max(3, 2) == 3 && clamp(9, 1, 5) == 5 && min_t(u8, 257, 2) == 1);
	assert(IS_ERR(ERR_PTR(-5)) && PTR_ERR(ERR_PTR(-5)) == -5 && !IS_ERR(&a) && !IS_ERR(0));
	return 0;
}
"#;
    let source = write_source("lists.c", text);
    let program = scratch().join("lists");
    let output = Command::new("gcc")
        .args(["-Wall", "-Wextra", "-Werror", "-Wno-overflow", "-I"])
        .arg(root().join("include"))
        .arg("-o")
        .args([&program, &source])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let output = Command::new(program).output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
