// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * Livepatch for memcached 1.6.18, version 1 of a cumulative series.
 *
 *  - incr and decr by zero are refused: clients used them to read counters for free.
 *  - no item lives longer than an hour, whatever the client asks for.
 *
 * Functions: process_arithmetic_command (proto_text.c), realtime (memcached.c).
 */
#include "memcached.h"

#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>

#define LONGEST_LIFE 3600

/* Private to proto_text.c. */
struct command_word {
	char *value;
	size_t length;
};

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

static void count_miss(conn *c, bool incr)
{
	struct thread_stats *stats = &c->thread->stats;

	pthread_mutex_lock(&stats->mutex);
	if (incr)
		stats->incr_misses++;
	else
		stats->decr_misses++;
	pthread_mutex_unlock(&stats->mutex);
}

static void livepatch_arithmetic(conn *c, struct command_word *words, const size_t count,
				 const bool incr)
{
	const struct command_word *key = &words[1];
	const char *last = words[count - 2].value;
	char number[INCR_MAX_STORAGE_LEN];
	uint64_t delta;

	if (last && strcmp(last, "noreply") == 0)
		c->noreply = true;
	if (key->length > KEY_MAX_LENGTH) {
		out_string(c, "CLIENT_ERROR bad command line format");
		return;
	}
	if (!safe_strtoull(words[2].value, &delta)) {
		out_string(c, "CLIENT_ERROR invalid numeric delta argument");
		return;
	}
	if (delta == 0) {
		out_string(c, "CLIENT_ERROR delta must not be zero");
		return;
	}

	switch (add_delta(c, key->value, key->length, incr, (int64_t)delta, number, NULL)) {
	case OK:
		out_string(c, number);
		break;
	case NON_NUMERIC:
		out_string(c, "CLIENT_ERROR cannot increment or decrement non-numeric value");
		break;
	case EOM:
		out_of_memory(c, (char *)"SERVER_ERROR out of memory");
		break;
	case DELTA_ITEM_NOT_FOUND:
		count_miss(c, incr);
		out_string(c, "NOT_FOUND");
		break;
	case DELTA_ITEM_CAS_MISMATCH:
		break;
	}
}

static struct klp_func funcs[] = {
	{
		.old_name = "process_arithmetic_command",
		.new_func = livepatch_arithmetic,
	},
	{
		.old_name = "realtime",
		.new_func = livepatch_realtime,
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
MODULE_DESCRIPTION("memcached: no zero deltas, items live an hour at most");
MODULE_INFO(livepatch, "Y");
