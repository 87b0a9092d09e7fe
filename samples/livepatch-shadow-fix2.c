// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * Replaces livepatch-shadow-fix1.c, or any other patch: mends the leak and counts how often
 * each dummy was looked at. Shadow variables that the older patch has made are used on;
 * dummies that were made before this patch get a counter when they are looked at.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/slab.h>

#include <stdlib.h>

#include "livepatch-shadow-mod.h"

/* Address of the allocation that used to leak; the number is fix1's and must not change. */
#define SV_LEAK 1
/* How often a dummy was looked at. */
#define SV_COUNTER 2

static int leak_ctor(void *obj, void *shadow_data, void *ctor_data)
{
	int **place = shadow_data;

	if (!ctor_data)
		return -EINVAL;
	*place = ctor_data;
	return 0;
}

static struct dummy *livepatch_dummy_alloc(void)
{
	struct dummy *dummy = calloc(1, sizeof(*dummy));
	int *leak;

	if (!dummy)
		return NULL;
	dummy->expires = time(NULL) + EXPIRY_SECONDS;
	leak = calloc(1, sizeof(*leak));
	if (!leak || !klp_shadow_alloc(dummy, SV_LEAK, sizeof(leak), GFP_KERNEL, leak_ctor, leak)) {
		free(leak);
		free(dummy);
		return NULL;
	}
	pr_info("%s: dummy @ %p, expires @ %ld\n", __func__, dummy, (long)dummy->expires);
	return dummy;
}

static void leak_dtor(void *obj, void *shadow_data)
{
	int **place = shadow_data;

	pr_info("%s: dummy @ %p, prevented leak @ %p\n", __func__, obj, *place);
	free(*place);
}

static void livepatch_dummy_free(struct dummy *dummy)
{
	int *count = klp_shadow_get(dummy, SV_COUNTER);

	/* A dummy that the unpatched program has made has no shadow variable. */
	if (klp_shadow_get(dummy, SV_LEAK))
		klp_shadow_free(dummy, SV_LEAK, leak_dtor);
	else
		pr_info("%s: dummy @ %p leaked!\n", __func__, dummy);
	if (count)
		pr_info("%s: dummy @ %p, looked at %d times\n", __func__, dummy, *count);
	klp_shadow_free(dummy, SV_COUNTER, NULL);
	free(dummy);
}

static bool livepatch_dummy_check(struct dummy *dummy, time_t now)
{
	int *count = klp_shadow_get_or_alloc(dummy, SV_COUNTER, sizeof(*count), GFP_NOWAIT, NULL,
					     NULL);

	if (count)
		*count += 1;
	return now >= dummy->expires;
}

static struct klp_func funcs[] = {
	{
		.old_name = "dummy_alloc",
		.new_func = livepatch_dummy_alloc,
	}, {
		.old_name = "dummy_free",
		.new_func = livepatch_dummy_free,
	}, {
		.old_name = "dummy_check",
		.new_func = livepatch_dummy_check,
	}, { }
};

/*
 * Not run when another patch replaces this one: the variables are the other's then. What the
 * remaining dummies hold is freed here, since nobody could find it any more.
 */
static void post_unpatch_callback(struct klp_object *obj)
{
	klp_shadow_free_all(SV_LEAK, leak_dtor);
	klp_shadow_free_all(SV_COUNTER, NULL);
}

static struct klp_object objs[] = {
	{
		.funcs = funcs,
		.callbacks = {
			.post_unpatch = post_unpatch_callback,
		},
	}, { }
};

static struct klp_patch patch = {
	.mod = THIS_MODULE,
	.objs = objs,
	.replace = true,
};

static int livepatch_shadow_init(void)
{
	return klp_enable_patch(&patch);
}

static void livepatch_shadow_exit(void)
{
}

module_init(livepatch_shadow_init);
module_exit(livepatch_shadow_exit);
MODULE_LICENSE("Dual MIT/Apache-2.0");
MODULE_DESCRIPTION("Mends a leak and counts, replacing older patches");
MODULE_INFO(livepatch, "Y");
