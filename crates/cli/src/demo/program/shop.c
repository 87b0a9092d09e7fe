/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The two functions with a mistake each: fix1.patch and fix2.patch. */
#include <stdio.h>

#include "shop.h"

/* Ten pieces or more earn 10 %. */
void price_order(const struct order *order, struct receipt *receipt)
{
	receipt->price_version = DISCOUNT_FIXED ? RELEASE : 0;
	receipt->total = order->quantity * order->unit_price;
	if (order->quantity >= 10)
		receipt->total -= order->unit_price / 10;
}

/* Euros and cents. */
void format_amount(struct receipt *receipt)
{
	receipt->format_version = CENTS_FIXED ? RELEASE : 0;
	snprintf(receipt->text, sizeof(receipt->text), "%lld.%lld",
		 receipt->total / 100, receipt->total % 100);
}
