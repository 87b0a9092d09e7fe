// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * Livepatch for memcached 1.6.18, version 2 of a cumulative series.
 *
 *  - no item lives longer than half an hour (version 1: an hour).
 *  - one incr or decr changes a counter by 1000 at most.
 *  - items whose key begins with "pin:" cannot be touched.
 *
 * Version 1's change to incr and decr by zero is withdrawn: process_arithmetic_command goes
 * back to memcached's own.
 *
 * Functions: realtime (memcached.c), add_delta and item_touch (thread.c).
 */
#include "memcached.h"

#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>

#define LONGEST_LIFE 1800
#define LARGEST_DELTA 1000
#define PINNED "pin:"

static rel_time_t livepatch_realtime(const time_t exptime)
{
	rel_time_t wanted;

	if (exptime == 0)
		return 0;
	if (exptime <= LONGEST_LIFE)
		return (rel_time_t)(current_time + exptime);
	/* Beyond 30 days a client means a date, not a duration. */
	if (exptime <= 60 * 60 * 24 * 30)
		return current_time + LONGEST_LIFE;
	if (exptime <= process_started)
		return 1;
	wanted = (rel_time_t)(exptime - process_started);
	return wanted < current_time + LONGEST_LIFE ? wanted : current_time + LONGEST_LIFE;
}

static enum delta_result_type livepatch_add_delta(conn *c, const char *key, const size_t length,
						  bool incr, const int64_t delta, char *number,
						  uint64_t *cas)
{
	const uint64_t wanted = (uint64_t)delta;
	const int64_t granted = wanted > LARGEST_DELTA ? LARGEST_DELTA : delta;
	const uint32_t bucket = hash(key, length);
	enum delta_result_type result;

	item_lock(bucket);
	result = do_add_delta(c, key, length, incr, granted, number, cas, bucket, NULL);
	item_unlock(bucket);
	return result;
}

static item *livepatch_touch(const char *key, size_t length, uint32_t exptime, conn *c)
{
	const uint32_t bucket = hash(key, length);
	item *touched;

	if (length >= strlen(PINNED) && memcmp(key, PINNED, strlen(PINNED)) == 0)
		return NULL;
	item_lock(bucket);
	touched = do_item_touch(key, length, exptime, bucket, c);
	item_unlock(bucket);
	return touched;
}

static struct klp_func funcs[] = {
	{
		.old_name = "realtime",
		.new_func = livepatch_realtime,
	},
	{
		.old_name = "add_delta",
		.new_func = livepatch_add_delta,
	},
	{
		.old_name = "item_touch",
		.new_func = livepatch_touch,
	},
	{ }
};

static struct klp_object objs[] = {
	{
		/* The main executable. */
		.funcs = funcs,
	},
	{ }
};

static struct klp_patch patch = {
	.mod = THIS_MODULE,
	.objs = objs,
	.replace = true,
};

static int livepatch_init(void)
{
	return klp_enable_patch(&patch);
}

static void livepatch_exit(void)
{
}

module_init(livepatch_init);
module_exit(livepatch_exit);
MODULE_LICENSE("Dual MIT/GPL");
MODULE_DESCRIPTION("memcached: shorter lives, bounded deltas, pinned items");
MODULE_INFO(livepatch, "Y");
