//! Targets that have no room near what is patched.

use super::*;

#[test]
fn limited_by_rlimit_as() {
    let mut scene = Scene::with(
        r#"
#include <sys/resource.h>
static void prepare(void)
{
	unsigned long pages;
	FILE *file = fopen("/proc/self/statm", "r");
	if (!file || fscanf(file, "%lu", &pages) != 1)
		abort();
	fclose(file);
	struct rlimit limit = { pages * 4096 + (1 << 20), RLIM_INFINITY };
	setrlimit(RLIMIT_AS, &limit);
}
"#,
        &[],
    );
    let module = fix(&scene.workshop, "fix");
    let pid = scene.pid();
    let way_out = format!("prlimit --pid {pid} --as=");
    let said = ["RLIMIT_AS leaves", "KiB", "are needed", &way_out];
    scene.refuses("fix", &module, Errno::ENOMEM, &said);
}

/// Takes every hole of the address space within 3 GiB of the executable.
const FILLER: &str = r#"
#include <sys/mman.h>
static void prepare(void)
{
	static char text[1 << 20];
	unsigned long start, end, previous = 0x10000;
	unsigned long here = (unsigned long)text & ~4095UL;
	unsigned long low = here > 3UL << 30 ? here - (3UL << 30) : 0x10000, high = here + (3UL << 30);
	FILE *file = fopen("/proc/self/maps", "r");
	size_t length = fread(text, 1, sizeof text - 1, file);
	fclose(file);
	text[length] = 0;
	for (char *line = text; line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL) {
		if (sscanf(line, "%lx-%lx", &start, &end) != 2)
			start = end = 0x7ffffffff000;
		unsigned long from = previous > low ? previous : low, to = start < high ? start : high;
		if (from < to)
			mmap((void *)from, to - from, PROT_NONE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
		previous = end;
	}
}
"#;

fn filled(flags: &[&str]) {
    let mut scene = Scene::with(FILLER, flags);
    let module = fix(&scene.workshop, "fix");
    let said = [
        "KiB are free in the address space within 2 GiB of the code at 0x",
        "restart it",
    ];
    scene.refuses("fix", &module, Errno::ENOMEM, &said);
}

#[test]
fn full_around_a_position_independent_executable() {
    filled(&["-fPIE", "-pie"]);
}

#[test]
fn full_around_an_executable_at_a_fixed_address() {
    filled(&["-fno-pie", "-no-pie"]);
}
