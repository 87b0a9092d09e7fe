// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * Mends the leak of livepatch-shadow-mod.c: the address that struct dummy has no place for
 * is kept in a shadow variable of the dummy.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/slab.h>

#include <stdlib.h>

#include "livepatch-shadow-mod.h"

/* Address of the allocation that used to leak. */
#define SV_LEAK 1

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
	/* A dummy that the unpatched program has made has no shadow variable. */
	if (klp_shadow_get(dummy, SV_LEAK))
		klp_shadow_free(dummy, SV_LEAK, leak_dtor);
	else
		pr_info("%s: dummy @ %p leaked!\n", __func__, dummy);
	free(dummy);
}

static struct klp_func funcs[] = {
	{
		.old_name = "dummy_alloc",
		.new_func = livepatch_dummy_alloc,
	}, {
		.old_name = "dummy_free",
		.new_func = livepatch_dummy_free,
	}, { }
};

/*
 * Not run when another patch replaces this one: the variables are the other's then. What the
 * remaining dummies hold is freed here, since nobody could find it any more.
 */
static void post_unpatch_callback(struct klp_object *obj)
{
	klp_shadow_free_all(SV_LEAK, leak_dtor);
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
MODULE_DESCRIPTION("Mends a leak with a shadow variable");
MODULE_INFO(livepatch, "Y");
