//! Callers that know which registers a local function leaves alone (gcc -fipa-ra, on at -O2),
//! and replacements that change more.

use engraft_engine::Engine;
use nix::errno::Errno;

use crate::support::answers::{Case, comes_and_goes, livepatch, livepatch_of, maps_of};
use crate::support::{Program, Workshop, load};

/// `leaf` changes only eax; `keeps` holds values in every other caller-saved register while
/// it calls it, as a caller may that was compiled together with it, and adds them up. `many`
/// takes two of its arguments on the stack, and `keeps_many` holds values in r10 and r11.
/// `wide` is a leaf whose caller holds 256 bits in ymm7.
const ASSEMBLY: &str = r#"
	.text
	.type leaf, @function
leaf:
	.cfi_startproc
	leal 1(%rdi,%rdi,2), %eax
	nopl 0(%rax)
	ret
	.cfi_endproc
	.size leaf, . - leaf

	.globl keeps
	.type keeps, @function
keeps:
	.cfi_startproc
	subq $8, %rsp
	.cfi_adjust_cfa_offset 8
	movl $1000, %ecx
	movl $2000, %edx
	movl $3000, %esi
	movl $4000, %r8d
	movl $5000, %r9d
	movl $6000, %r10d
	movl $7000, %r11d
	movl $8000, %eax
	movd %eax, %xmm0
	movd %eax, %xmm1
	movd %eax, %xmm7
	movd %eax, %xmm15
	call leaf
	addl %edi, %eax
	addl %ecx, %eax
	addl %edx, %eax
	addl %esi, %eax
	addl %r8d, %eax
	addl %r9d, %eax
	addl %r10d, %eax
	addl %r11d, %eax
	paddd %xmm1, %xmm0
	paddd %xmm7, %xmm0
	paddd %xmm15, %xmm0
	movd %xmm0, %edx
	addl %edx, %eax
	addq $8, %rsp
	.cfi_adjust_cfa_offset -8
	ret
	.cfi_endproc
	.size keeps, . - keeps

	.type many, @function
many:
	.cfi_startproc
	movl 8(%rsp), %eax
	addl 16(%rsp), %eax
	addl %edi, %eax
	ret
	.cfi_endproc
	.size many, . - many

	.globl keeps_many
	.type keeps_many, @function
keeps_many:
	.cfi_startproc
	movl $10, %r10d
	movl $20, %r11d
	subq $8, %rsp
	.cfi_adjust_cfa_offset 8
	pushq $100
	.cfi_adjust_cfa_offset 8
	pushq $200
	.cfi_adjust_cfa_offset 8
	call many
	addl %r10d, %eax
	addl %r11d, %eax
	addq $24, %rsp
	.cfi_adjust_cfa_offset -24
	ret
	.cfi_endproc
	.size keeps_many, . - keeps_many

	.type wide, @function
wide:
	.cfi_startproc
	leal 5(%rdi), %eax
	nopl 0(%rax)
	ret
	.cfi_endproc
	.size wide, . - wide

	.globl keeps_wide
	.type keeps_wide, @function
keeps_wide:
	.cfi_startproc
	subq $40, %rsp
	.cfi_adjust_cfa_offset 40
	vmovups (%rsi), %ymm7
	call wide
	vmovups %ymm7, (%rsp)
	addl 28(%rsp), %eax
	vzeroupper
	addq $40, %rsp
	.cfi_adjust_cfa_offset -40
	ret
	.cfi_endproc
	.size keeps_wide, . - keeps_wide
	.section .note.GNU-stack, "", @progbits
"#;

const PROGRAM: &str = r#"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
int keeps(int x), keeps_many(int x), keeps_wide(int x, const int *eight);
/* What gcc makes of it: the caller holds x, y and the counter over the call. */
static volatile int offset = 3;
__attribute__((noinline, noclone)) static int compiled(int x) { return x + offset; }
__attribute__((noipa)) int keeps_compiled(int x, int y)
{
	int sum = 0;
	for (int i = 0; i < 3; i++)
		sum += compiled(i) * x + y;
	return sum;
}
void reply(const char *question)
{
	static const int eight[8] = { 1, 2, 3, 4, 5, 6, 7, 8000 };
	int x = atoi(strchr(question, ' '));
	printf("%d", *question == 'l' ? keeps(x) : *question == 'm' ? keeps_many(x)
		   : *question == 'c' ? keeps_compiled(x, 100)
		   : __builtin_cpu_supports("avx") ? keeps_wide(x, eight) : x + 8005);
}
"#;

/// They call the C library, which leaves no caller-saved register alone.
const PATCH: &str = r#"
#include <stdio.h>
#include <stdlib.h>
static int through_text(int x)
{
	char text[64];
	snprintf(text, sizeof(text), "%d %g", x, x + 0.5);
	/* Whatever the library has happened to leave as it was. */
	__asm__ volatile("movl $-1, %%ecx; movl $-1, %%edx; movl $-1, %%esi; movl $-1, %%edi;"
			 "movl $-1, %%r8d; movl $-1, %%r9d; movl $-1, %%r10d; movl $-1, %%r11d;"
			 "pcmpeqd %%xmm0, %%xmm0; pcmpeqd %%xmm1, %%xmm1; pcmpeqd %%xmm7, %%xmm7;"
			 "pcmpeqd %%xmm15, %%xmm15"
			 ::: "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "xmm0", "xmm1",
			 "xmm7", "xmm15");
	return atoi(text);
}
static int new_leaf(int x) { return through_text(x) * 100; }
static int new_compiled(int x) { return through_text(x) * 1000; }
static int new_wide(int x) { return through_text(x); }
static int new_many(int a, int b, int c, int d, int e, int f, int g, int h)
{
	return through_text(a) + g * 10 + h;
}
/* Does no more than the original. */
static int small_many(int a, int b, int c, int d, int e, int f, int g, int h)
{
	return a - g - h;
}
static int small_wide(int x) { return x - 5; }
"#;

fn program(workshop: &Workshop, flags: &[&str]) -> Program {
    workshop.write("local.s", ASSEMBLY);
    let flags = [&["local.s"], flags].concat();
    Program::start(&workshop.answering("gcc", "program", PROGRAM, &flags))
}

const LEAF: Case<'_> = ("leaf 4", "60017", "60404");
const COMPILED: Case<'_> = ("compiled 2", "324", "6300");
const MANY: Case<'_> = ("many 1", "331", "-269");
const WIDE: Case<'_> = ("wide 7", "8012", "8002");

#[test]
fn a_replacement_may_change_registers_that_callers_keep_values_in() {
    let workshop = Workshop::new();
    let functions = [("leaf", "new_leaf"), ("compiled", "new_compiled")];
    let module = workshop.module("registers", &livepatch(PATCH, &functions));
    for flags in [&[][..], &["-static"]] {
        let mut program = program(&workshop, flags);
        comes_and_goes(&mut program, "registers", &module, &[LEAF, COMPILED, LEAF]);
        program.finish();
    }
}

fn refused(function: &str, replacement: &str, reason: &str, cases: &[Case<'_>]) {
    let workshop = Workshop::new();
    let mut program = program(&workshop, &[]);
    let source = livepatch(PATCH, &[(function, replacement)]);
    let module = workshop.module("refused", &source);
    let untouched = maps_of(program.pid());
    let mut engine = Engine::open(program.pid()).expect("open");
    let error = load(&mut engine, "refused", &module, &[]).expect_err("callers rely on it");
    assert_eq!(error.errno(), Errno::EINVAL, "{error}");
    let text = error.to_string();
    for part in [function, "-fipa-ra", reason] {
        assert!(text.contains(part), "{part}: {text}");
    }
    drop(engine);
    assert_eq!(maps_of(program.pid()), untouched);
    for (question, old, _) in cases {
        assert_eq!(program.ask(question), *old);
    }
    program.finish();
}

#[test]
fn a_replacement_that_takes_arguments_on_the_stack_is_refused() {
    refused("many", "new_many", "arguments on the stack", &[MANY]);
}

#[test]
fn a_caller_that_keeps_more_than_128_bits_is_told() {
    if std::arch::is_x86_feature_detected!("avx") {
        refused("wide", "new_wide", "wider than 128 bits", &[WIDE]);
    }
}

#[test]
fn a_replacement_that_changes_no_more_is_accepted() {
    let workshop = Workshop::new();
    let functions = [("many", "small_many"), ("wide", "small_wide")];
    let module = workshop.module("small", &livepatch(PATCH, &functions));
    let mut program = program(&workshop, &[]);
    comes_and_goes(&mut program, "small", &module, &[MANY, WIDE]);
    program.finish();
}

/// `reports` calls the C library through a PLT stub, so that no caller can rely on anything,
/// and its replacement may take arguments on the stack. The linker is told not to describe
/// the stubs by frame information, and no symbol does.
#[test]
fn a_call_through_a_plt_stub_leaves_nothing_to_rely_on() {
    const LIBRARY: &str = r#"
#include <stdio.h>
char report[64];
int reports(int a, int b, int c, int d, int e, int f, int g, int h)
{
	return snprintf(report, sizeof(report), "%d %d %d %d", a + b, c + d, e + f, g + h);
}
/* Leaves its third argument in rdx, where a second result would be. */
int adds(int x, int y, int z)
{
	return reports(x, y, z, x, y, z, x, y) + 1;
}
const char *last_report(void) { return report; }
"#;
    const USER: &str = r#"
#include <stdio.h>
#include <stdlib.h>
extern const char *last_report(void);
extern int adds(int x, int y, int z);
void reply(const char *question)
{
	int x = atoi(question), sum = adds(x, x, x);
	printf("%d %s", sum, last_report());
}
"#;
    const PATCH: &str = r#"
extern char report[64];
extern int snprintf(char *, unsigned long, const char *, ...);
static int new_reports(int a, int b, int c, int d, int e, int f, int g, int h)
{
	return snprintf(report, 64, "%d", a * b * c * d * e * f * g * h) + 1000;
}
"#;
    let workshop = Workshop::new();
    workshop.write("reports.c", LIBRARY);
    let source = livepatch_of("\"libreports\"", PATCH, &[("reports", "new_reports")]);
    let module = workshop.module("plt", &source);
    for flags in [&[][..], &["-Wl,-z,now", "-fcf-protection"], &["-fno-plt"]] {
        let fixed = [
            "-O2",
            "-fno-inline",
            "-shared",
            "-fPIC",
            "-fno-semantic-interposition",
            "-s",
            "-Wl,-Bsymbolic",
            "-Wl,--no-ld-generated-unwind-info",
            "reports.c",
        ];
        workshop.build("gcc", "libreports.so", &[&fixed, flags].concat());
        let user = ["-L.", "-lreports", "-Wl,-rpath,$ORIGIN"];
        let mut program = Program::start(&workshop.answering("gcc", "user", USER, &user));
        let case = ("5", "12 10 10 10 10", "1007 390625");
        comes_and_goes(&mut program, "plt", &module, &[case]);
        program.finish();
    }
}
