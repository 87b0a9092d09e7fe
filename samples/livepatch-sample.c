// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * Replaces one function of target.c.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>

#include <stdio.h>

static void livepatch_print_line(unsigned long number)
{
	printf("%lu: %s\n", number, "this has been live patched");
}

static struct klp_func funcs[] = {
	{
		.old_name = "print_line",
		.new_func = livepatch_print_line,
	}, { }
};

static struct klp_object objs[] = {
	{
		/* no name: the main executable */
		.funcs = funcs,
	}, { }
};

static struct klp_patch patch = {
	.mod = THIS_MODULE,
	.objs = objs,
};

static int livepatch_init(void)
{
	return klp_enable_patch(&patch);
}

static void livepatch_exit(void)
{
}

module_init(livepatch_init);
module_exit(livepatch_exit);
MODULE_LICENSE("Dual MIT/Apache-2.0");
MODULE_DESCRIPTION("Replaces one function of the sample target");
MODULE_INFO(livepatch, "Y");
