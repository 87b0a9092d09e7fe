//! Module parameters, set before the init function runs.

use nix::errno::Errno;

use crate::scene::{Scene, expect_refused, written_out};

const SOURCE: &str = r#"
static bool flag = true;
static unsigned char tiny;
static short small = -2;
static unsigned short usmall;
static int number;
static unsigned int unumber;
static long big;
static unsigned long ubig = 9;
static unsigned long long huge;
static char *text = "default";
static int numbers[4];
static unsigned int count;
static char *words[2];
static int renamed;
module_param(flag, bool, 0644);
module_param(tiny, byte, 0444);
module_param(small, short, 0);
module_param(usmall, ushort, 0);
module_param(number, int, 0);
module_param(unumber, uint, 0);
module_param(big, long, 0);
module_param(ubig, ulong, 0);
module_param(huge, ullong, 0);
module_param(text, charp, 0);
module_param_array(numbers, int, &count, 0);
module_param_array(words, charp, NULL, 0);
module_param_named(other_name, renamed, int, 0);
static int init(void)
{
	pr_info("%d %u %d %u %d %u %ld %lu %llu %s\n", flag, tiny, small, usmall, number, unumber,
		big, ubig, huge, text);
	pr_info("%u: %d %d %d, %s %s, %d\n", count, numbers[0], numbers[1], numbers[2],
		words[0] ? words[0] : "-", words[1] ? words[1] : "-", renamed);
	return 0;
}
static void leave(void) { }
module_init(init);
module_exit(leave);
"#;

#[test]
fn every_type_is_read_as_the_kernel_reads_it() {
    let mut scene = Scene::set();
    let source = written_out(SOURCE);
    scene.load("quiet", &source).expect("load");
    assert_eq!(
        scene.log_from(0),
        [
            "quiet: 1 0 -2 0 0 0 0 9 0 default",
            "quiet: 0: 0 0 0, - -, 0"
        ]
    );
    let parameters = [
        ("flag", "n"),
        ("tiny", "255"),
        ("small", "-32768"),
        ("usmall", "0xffff"),
        ("number", "-010"),
        ("unumber", "4294967295"),
        ("big", "-9223372036854775808"),
        ("ubig", "0x10"),
        ("huge", "18446744073709551615"),
        ("text", "a=b c"),
        ("numbers", "1,-2,0x3"),
        ("words", "up,down"),
        // As in the kernel, `-` and `_` are the same in names.
        ("other-name", "7"),
    ];
    scene.load_with("set", &source, &parameters).expect("load");
    assert_eq!(
        scene.log_from(2),
        [
            "set: 0 255 -32768 65535 -8 4294967295 -9223372036854775808 16 18446744073709551615 a=b c",
            "set: 3: 1 -2 3, up down, 7",
        ]
    );
    // What the last load set is not left over for the next.
    scene.engine.unload("set").expect("unload");
    scene.load("set", &source).expect("load");
    assert_eq!(scene.log_from(4)[0], "set: 1 0 -2 0 0 0 0 9 0 default");
    scene.program.finish();
}

#[test]
fn bad_values_and_unknown_names_are_refused() {
    let mut scene = Scene::set();
    let source = written_out(SOURCE);
    for (name, value, errno, says) in [
        (
            "nonesuch",
            "1",
            Errno::EINVAL,
            "it has: big, flag, huge, number, numbers, other_name, pre_patch_ret, small",
        ),
        ("number", "", Errno::EINVAL, "not a number"),
        ("number", "1k", Errno::EINVAL, "not a number"),
        ("unumber", "-1", Errno::EINVAL, "not a number"),
        ("tiny", "256", Errno::ERANGE, "out of range"),
        ("small", "32768", Errno::ERANGE, "out of range"),
        ("flag", "maybe", Errno::EINVAL, "not a truth value"),
        ("numbers", "1,2,3,4,5", Errno::EINVAL, "room for 4 only"),
        ("numbers", "1,,2", Errno::EINVAL, "not a number"),
    ] {
        let result = scene.load_with("set", &source, &[("big", "5"), (name, value)]);
        expect_refused(result, errno, says);
        assert_eq!(scene.status().patches, []);
    }
    assert_eq!(scene.log_from(0), [""; 0]);
    scene.program.finish();
}
