/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* One request: price the order, wait for the warehouse, write the receipt. */
#include "shop.h"

void handle_request(const struct order *order, struct receipt *receipt)
{
	receipt->handler_version = 0;
	price_order(order, receipt);
	look_up_stock(order);
	format_amount(receipt);
}
