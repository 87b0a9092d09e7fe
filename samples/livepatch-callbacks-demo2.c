// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * The same callbacks as livepatch-callbacks-demo.c, in a patch that may replace others.
 *
 *	replace=1	makes the patch a cumulative one
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/errno.h>
#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/moduleparam.h>

#include <stdio.h>

static int replace;
module_param(replace, int, 0644);
MODULE_PARM_DESC(replace, "replace all older patches (0 or 1)");

static const char *const module_state[] = {
	[MODULE_STATE_LIVE] = "[MODULE_STATE_LIVE] Normal state",
	[MODULE_STATE_COMING] = "[MODULE_STATE_COMING] Full formed, running module_init",
	[MODULE_STATE_GOING] = "[MODULE_STATE_GOING] Going away",
	[MODULE_STATE_UNFORMED] = "[MODULE_STATE_UNFORMED] Still setting it up",
};

static void report(const char *callback, const struct klp_object *obj)
{
	if (obj->mod)
		pr_info("%s: %s -> %s\n", callback, obj->mod->name, module_state[obj->mod->state]);
	else
		pr_info("%s: vmlinux\n", callback);
}

static int pre_patch_callback(struct klp_object *obj)
{
	report(__func__, obj);
	return 0;
}

static void post_patch_callback(struct klp_object *obj)
{
	report(__func__, obj);
}

static void pre_unpatch_callback(struct klp_object *obj)
{
	report(__func__, obj);
}

static void post_unpatch_callback(struct klp_object *obj)
{
	report(__func__, obj);
}

static void patched_work_func(void)
{
	fprintf(stderr, "livepatch_callbacks_busymod: this has been live patched by %s\n",
		KBUILD_MODNAME);
}

/* An object without functions still has callbacks. */
static struct klp_func no_funcs[] = {
	{ }
};

static struct klp_func busymod_funcs[] = {
	{
		.old_name = "busymod_work_func",
		.new_func = patched_work_func,
	}, { }
};

#define CALLBACKS \
	{ \
		.pre_patch = pre_patch_callback, \
		.post_patch = post_patch_callback, \
		.pre_unpatch = pre_unpatch_callback, \
		.post_unpatch = post_unpatch_callback, \
	}

static struct klp_object objs[] = {
	{
		.name = NULL,
		.funcs = no_funcs,
		.callbacks = CALLBACKS,
	}, {
		.name = "livepatch_callbacks_mod",
		.funcs = no_funcs,
		.callbacks = CALLBACKS,
	}, {
		.name = "livepatch_callbacks_busymod",
		.funcs = busymod_funcs,
		.callbacks = CALLBACKS,
	}, { }
};

static struct klp_patch patch = {
	.mod = THIS_MODULE,
	.objs = objs,
};

static int livepatch_callbacks_init(void)
{
	patch.replace = replace != 0;
	return klp_enable_patch(&patch);
}

static void livepatch_callbacks_exit(void)
{
}

module_init(livepatch_callbacks_init);
module_exit(livepatch_callbacks_exit);
MODULE_LICENSE("Dual MIT/Apache-2.0");
MODULE_DESCRIPTION("Callbacks in a patch that may replace others");
MODULE_INFO(livepatch, "Y");
