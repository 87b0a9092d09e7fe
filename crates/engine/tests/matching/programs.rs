//! The program that most tests patch: two source files with something of everything.

/// `main.c`: static variables, a thread-local one, constants, texts, a jump table, a function
/// with a cold part, and a static function whose name `other.c` has, too.
pub(crate) const MAIN: &str = r#"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <errno.h>

int other(int x);
extern int shared_total;

static int calls;
static long history[8];
static __thread int per_thread = 3;
static const int weights[] = { 3, 1, 4, 1, 5, 9, 2, 6 };
static const char *const names[] = { "nought", "one", "two", "three" };
double factor = 1.5;
int global_limit = 1000;

static __attribute__((noinline)) int helper(int x) { calls++; return x * 7 + per_thread; }
static __attribute__((noinline)) int hidden(int x) { return x * 31 + calls; }
static int twice(int x) { return helper(x) * 2; }
int apply(int (*function)(int), int x) { return function(x); }

__attribute__((noinline)) int classify(int c)
{
	static int seen;
	seen++;
	switch (c) {
	case 'a': return helper(seen);
	case 'b': return hidden(seen) + 1;
	case 'c': return other(seen) + 2;
	case 'd': return weights[seen & 7];
	case 'e': return (int)strlen(names[seen & 3]);
	case 'f': return shared_total;
	case 'g': return global_limit;
	case 'h': return errno;
	default: return -1;
	}
}

__attribute__((cold, noinline)) static int complain(const char *what)
{
	fprintf(stderr, "bad input: %s\n", what);
	return -1;
}

__attribute__((noinline)) int describe(char *out, size_t size, int n)
{
	static unsigned long visits = 1;
	if (n > global_limit) {
		complain("too long");
		complain(names[n & 3]);
		abort();
	}
	history[n & 7] += n * weights[n & 7];
	visits += apply(hidden, 1) > 0;
	return snprintf(out, size, "%s %d %ld %.2f %lu", names[n & 3], classify('a' + n % 9),
			history[n & 7], n * factor, visits);
}

int main(void)
{
	char line[256], out[256];
	puts("ready");
	fflush(stdout);
	while (fgets(line, sizeof line, stdin)) {
		per_thread += line[0] == '!';
		describe(out, sizeof out, (int)strlen(line) - 1);
		printf("%s %d %d\n", out, twice(1), other(1));
		fflush(stdout);
	}
	return 0;
}
"#;

/// `other.c`: a `helper` of its own.
pub(crate) const OTHER: &str = r#"
int shared_total = 40;
static int calls = 5;
static __attribute__((noinline)) int helper(int x) { calls--; return x * 5 + calls; }
int other(int x) { shared_total += helper(x); return shared_total; }
"#;

/// Replaces `describe` by a function that uses what the program has: static variables and
/// functions, of either file.
pub(crate) const PATCH: &str = r#"
#include <linux/module.h>
#include <linux/livepatch.h>
#include <linux/kernel.h>
extern int pre_calls_IN_main, pre_calls_IN_other, pre_global_limit;
extern __thread int pre_per_thread_IN_main;
extern int pre_hidden_IN_main(int), pre_helper_IN_main(int), pre_helper_IN_other(int);
extern int pre_classify(int);

static char *put(char *out, int number)
{
	*out++ = ' ';
	if (number >= 1000)
		*out++ = '0' + number / 1000 % 10;
	*out++ = '0' + number / 100 % 10;
	*out++ = '0' + number / 10 % 10;
	*out++ = '0' + number % 10;
	*out = 0;
	return out;
}
static int new_describe(char *out, unsigned long size, int n)
{
	static const char start[] = "patched";
	int i;
	pre_calls_IN_main = 100;
	pre_calls_IN_other = 50;
	pre_per_thread_IN_main = 9;
	for (i = 0; i < 7; i++)
		*out++ = start[i];
	out = put(out, n);
	out = put(out, pre_hidden_IN_main(2));
	out = put(out, pre_helper_IN_main(1));
	out = put(out, pre_helper_IN_other(1));
	out = put(out, pre_global_limit);
	return 0;
}
static struct klp_func funcs[] = { { .old_name = "describe", .new_func = new_describe }, {} };
static struct klp_object objs[] = { { .funcs = funcs }, {} };
static struct klp_patch patch = { .mod = THIS_MODULE, .objs = objs };
static int init(void)
{
	pr_info("calls %lx\n", (unsigned long)&pre_calls_IN_main);
	pr_info("hidden %lx\n", (unsigned long)pre_hidden_IN_main);
	pr_info("classify %lx\n", (unsigned long)pre_classify);
	pr_info("global_limit %lx\n", (unsigned long)&pre_global_limit);
	return klp_enable_patch(&patch);
}
static void leave(void) { }
module_init(init);
module_exit(leave);
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
"#;

/// The symbols that [`PATCH`] needs.
pub(crate) const WANTED: &[(&str, &str)] = &[
    ("calls", "main.c"),
    ("calls", "other.c"),
    ("per_thread", "main.c"),
    ("hidden", "main.c"),
    ("helper", "main.c"),
    ("helper", "other.c"),
    ("global_limit", ""),
    ("classify", ""),
    ("other", ""),
];
