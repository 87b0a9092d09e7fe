/*
 * Measured from inside: each line of input is answered with the times of a call of the first
 * function and of a function that is never changed, in nanoseconds. The argument is the
 * number of threads, all but one of which sleep.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define ROUNDS 5
#define CALLS 4000000
#define SEPARATE __attribute__((noipa))

FUNCTIONS

SEPARATE int unchanged(int x)
{
	return x * 3 + 7;
}

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec * 1e9 + (double)time.tv_nsec;
}

static double time_calls(int (*function)(int))
{
	double start = now();

	for (int call = 0; call < CALLS; call++)
		function(call);
	return (now() - start) / CALLS;
}

static void *sleep_on(void *argument)
{
	(void)argument;
	for (;;)
		pause();
	return NULL;
}

int main(int argc, char **argv)
{
	int threads = argc > 1 ? atoi(argv[1]) : 1;
	char line[16];

	for (int thread = 1; thread < threads; thread++) {
		pthread_t id;

		if (pthread_create(&id, NULL, sleep_on, NULL) != 0)
			return 1;
	}
	puts("ready");
	fflush(stdout);
	while (fgets(line, sizeof line, stdin)) {
		double changed_time = 1e9, unchanged_time = 1e9;

		for (int round = 0; round < ROUNDS; round++) {
			double time = time_calls(function_0);

			changed_time = time < changed_time ? time : changed_time;
			time = time_calls(unchanged);
			unchanged_time = time < unchanged_time ? time : unchanged_time;
		}
		printf("%d %f %f\n", function_0(1), changed_time, unchanged_time);
		fflush(stdout);
	}
	return 0;
}
