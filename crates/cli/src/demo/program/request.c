/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * One request: price the order, wait for the warehouse, write the receipt.
 *
 * Every fix changes the mark here, too. A thread in the middle of a request has this function on
 * its stack, and therefore finishes that request in the old code.
 */
#include "shop.h"

void handle_request(const struct order *order, struct receipt *receipt)
{
	receipt->handler_version = RELEASE;
	price_order(order, receipt);
	look_up_stock(order);
	format_amount(receipt);
}
