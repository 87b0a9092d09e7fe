// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * A program with a memory leak. A thread makes a dummy every second, the main thread throws
 * away those that have expired. dummy_alloc() allocates something else as well, which
 * nobody frees because struct dummy has no place to keep its address.
 *
 * livepatch-shadow-fix1.c keeps the address in a shadow variable and frees it;
 * livepatch-shadow-fix2.c does that too and counts how often each dummy was looked at.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "livepatch-shadow-mod.h"

static struct dummy *dummies;
static pthread_mutex_t dummies_lock = PTHREAD_MUTEX_INITIALIZER;

__attribute__((__noinline__)) struct dummy *dummy_alloc(void)
{
	struct dummy *dummy = calloc(1, sizeof(*dummy));
	int *leak;

	if (!dummy)
		return NULL;
	dummy->expires = time(NULL) + EXPIRY_SECONDS;
	leak = calloc(1, sizeof(*leak));
	if (!leak) {
		free(dummy);
		return NULL;
	}
	printf("dummy_alloc: dummy @ %p, expires @ %ld, leaks %p\n", (void *)dummy,
	       (long)dummy->expires, (void *)leak);
	return dummy;
}

__attribute__((__noinline__)) void dummy_free(struct dummy *dummy)
{
	printf("dummy_free: dummy @ %p, expired = %ld\n", (void *)dummy, (long)dummy->expires);
	free(dummy);
}

__attribute__((__noinline__)) bool dummy_check(struct dummy *dummy, time_t now)
{
	return now >= dummy->expires;
}

static void *make_dummies(void *unused)
{
	(void)unused;
	for (;;) {
		struct dummy *dummy = dummy_alloc();

		if (dummy) {
			pthread_mutex_lock(&dummies_lock);
			dummy->next = dummies;
			dummies = dummy;
			pthread_mutex_unlock(&dummies_lock);
		}
		sleep(1);
	}
	return NULL;
}

static void clean_up(time_t now)
{
	pthread_mutex_lock(&dummies_lock);
	for (struct dummy **place = &dummies; *place;) {
		struct dummy *dummy = *place;

		if (dummy_check(dummy, now)) {
			*place = dummy->next;
			dummy_free(dummy);
		} else {
			place = &dummy->next;
		}
	}
	pthread_mutex_unlock(&dummies_lock);
}

int main(void)
{
	pthread_t maker;

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (pthread_create(&maker, NULL, make_dummies, NULL) != 0) {
		perror("livepatch-shadow-mod: pthread_create");
		return 1;
	}
	for (;;) {
		clean_up(time(NULL));
		sleep(2);
	}
}
