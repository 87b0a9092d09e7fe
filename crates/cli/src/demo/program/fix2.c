/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Fix 2 alone, as a smaller cumulative patch: it says nothing about price_order(), which
 * therefore goes back to the original when it replaces a patch that had changed it.
 */
#include <stdio.h>

#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>

#include "shop.h"

enum { VERSION = 2 };

static void fixed_format_amount(struct receipt *receipt)
{
	receipt->format_version = VERSION;
	snprintf(receipt->text, sizeof(receipt->text), "%lld.%02lld",
		 receipt->total / 100, receipt->total % 100);
}

static void fixed_handle_request(const struct order *order, struct receipt *receipt)
{
	receipt->handler_version = VERSION;
	price_order(order, receipt);
	look_up_stock(order);
	format_amount(receipt);
}

static struct klp_func funcs[] = {
	{ .old_name = "handle_request", .new_func = fixed_handle_request },
	{ .old_name = "format_amount", .new_func = fixed_format_amount },
	{ }
};

static struct klp_object objs[] = {
	{ .name = NULL, .funcs = funcs },
	{ }
};

static struct klp_patch patch = {
	.mod = THIS_MODULE,
	.objs = objs,
	.replace = true,
};

static int fix_init(void)
{
	return klp_enable_patch(&patch);
}

static void fix_exit(void)
{
}

module_init(fix_init);
module_exit(fix_exit);
MODULE_LICENSE("Dual MIT/GPL");
MODULE_INFO(livepatch, "Y");
