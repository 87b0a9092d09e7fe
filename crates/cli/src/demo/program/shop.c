/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The two functions with a mistake each. */
#include <stdio.h>

#include "shop.h"

/* Ten pieces or more earn 10 %. Mistake: it is taken off one piece only. */
void price_order(const struct order *order, struct receipt *receipt)
{
	receipt->price_version = 0;
	receipt->total = order->quantity * order->unit_price;
	if (order->quantity >= 10)
		receipt->total -= order->unit_price / 10;
}

/* Mistake: 12.05 is printed as 12.5. */
void format_amount(struct receipt *receipt)
{
	receipt->format_version = 0;
	snprintf(receipt->text, sizeof(receipt->text), "%lld.%lld",
		 receipt->total / 100, receipt->total % 100);
}
