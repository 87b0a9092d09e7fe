/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Fixes 1 and 2 in one cumulative patch: the discount, and the receipt's cents. */
#include <stdio.h>

#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>

#include "shop.h"

enum { VERSION = 12 };

static void fixed_price_order(const struct order *order, struct receipt *receipt)
{
	receipt->price_version = VERSION;
	receipt->total = order->quantity * order->unit_price;
	if (order->quantity >= 10)
		receipt->total -= receipt->total / 10;
}

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
	{ .old_name = "price_order", .new_func = fixed_price_order },
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
