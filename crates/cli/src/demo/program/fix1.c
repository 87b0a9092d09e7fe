/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Fix 1: the discount applies to every piece.
 *
 * handle_request() is replaced too, although it was right: a thread in the middle of a
 * request has it on its stack, and therefore finishes that request in the old code.
 */
#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>

#include "shop.h"

enum { VERSION = 1 };

static void fixed_price_order(const struct order *order, struct receipt *receipt)
{
	receipt->price_version = VERSION;
	receipt->total = order->quantity * order->unit_price;
	if (order->quantity >= 10)
		receipt->total -= receipt->total / 10;
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
	{ .old_name = "price_order", .new_func = fixed_price_order },
	{ }
};

static struct klp_object objs[] = {
	{ .name = NULL, .funcs = funcs },
	{ }
};

static struct klp_patch patch = {
	.mod = THIS_MODULE,
	.objs = objs,
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
