/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* What one order is, and the functions that turn it into a receipt. */
#ifndef SHOP_H
#define SHOP_H

#include <stddef.h>

/* The discount is taken off every piece. */
#define DISCOUNT_FIXED 0

/*
 * The fixes are independent of each other, and so are their diffs: this distance keeps them
 * apart.
 */

/* Amounts have two digits for cents. */
#define CENTS_FIXED 0

/* What receipts are marked with, by every function that a fix changes. */
#define RELEASE (DISCOUNT_FIXED + 2 * CENTS_FIXED)

struct order {
	unsigned long id;
	long long quantity;
	long long unit_price; /* cents */
};

struct receipt {
	int handler_version; /* which handle_request() made it */
	int price_version;   /* which price_order() */
	int format_version;  /* which format_amount() */
	long long total;     /* cents */
	char text[32];
};

/* request.c */
void handle_request(const struct order *order, struct receipt *receipt);

/* shop.c */
void price_order(const struct order *order, struct receipt *receipt);
void format_amount(struct receipt *receipt);

/* server.c: asks the warehouse, which takes a while */
void look_up_stock(const struct order *order);

#endif
