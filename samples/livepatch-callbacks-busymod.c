// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * A library with a thread that stays in busymod_work_func() for most of the time, so that a
 * patch of that function has to wait for it.
 *
 *	BUSYMOD_SECONDS=30	(environment) how long one call takes; 5 by default
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static pthread_t worker;
static atomic_bool stopping;

static unsigned int work_steps(void)
{
	const char *seconds = getenv("BUSYMOD_SECONDS");

	return 50 * (seconds ? (unsigned int)atoi(seconds) : 5);
}

__attribute__((__noinline__)) void busymod_work_func(void)
{
	const struct timespec step = { .tv_nsec = 20 * 1000 * 1000 };

	fprintf(stderr, "livepatch_callbacks_busymod: %s enter\n", __func__);
	for (unsigned int left = work_steps(); left > 0 && !atomic_load(&stopping); left--)
		nanosleep(&step, NULL);
	fprintf(stderr, "livepatch_callbacks_busymod: %s exit\n", __func__);
}

static void *work(void *unused)
{
	const struct timespec pause = { .tv_nsec = 100 * 1000 * 1000 };

	(void)unused;
	while (!atomic_load(&stopping)) {
		busymod_work_func();
		nanosleep(&pause, NULL);
	}
	return NULL;
}

__attribute__((__constructor__)) static void livepatch_callbacks_busymod_init(void)
{
	fprintf(stderr, "livepatch_callbacks_busymod: %s\n", __func__);
	if (pthread_create(&worker, NULL, work, NULL) != 0) {
		fprintf(stderr, "livepatch_callbacks_busymod: no thread\n");
		atomic_store(&stopping, true);
	}
}

__attribute__((__destructor__)) static void livepatch_callbacks_busymod_exit(void)
{
	if (!atomic_exchange(&stopping, true))
		pthread_join(worker, NULL);
	fprintf(stderr, "livepatch_callbacks_busymod: %s\n", __func__);
}
