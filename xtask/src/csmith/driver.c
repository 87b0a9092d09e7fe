/*
 * Computes again and again in one process: a line of input, a checksum.
 *
 * `f` computes in a child, `r` in this process, whose variables are then as they were
 * at the start. The argument limits the processor time of a computation, in milliseconds.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

/* More than any test takes: a process that hangs is not left behind. */
#define LIFETIME_SECONDS 600
#define MEMORY_LIMIT (1ul << 30)

/* The computation is the generated program's main(), renamed. */
int computation(int argc, char **argv);

/* The linker's: where the executable's variables begin and end. */
extern char __data_start[], _end[];

static void limit_memory(void)
{
	struct rlimit limit = { MEMORY_LIMIT, MEMORY_LIMIT };

	setrlimit(RLIMIT_AS, &limit);
}

/* The signal at the end of the time kills the process. */
static void limit_time(long milliseconds)
{
	struct itimerval timer = {
		.it_value = { milliseconds / 1000, milliseconds % 1000 * 1000 },
	};

	setitimer(ITIMER_VIRTUAL, &timer, NULL);
}

static void compute(long milliseconds)
{
	char *arguments[] = { "computation", NULL };

	limit_time(milliseconds);
	computation(1, arguments);
	limit_time(0);
	fflush(stdout);
}

static void compute_in_child(long milliseconds)
{
	int status = -1;
	pid_t child = fork();

	if (child == 0) {
		compute(milliseconds);
		_exit(0);
	}
	waitpid(child, &status, 0);
	if (status != 0) {
		printf("status %d\n", status);
		fflush(stdout);
	}
}

static void compute_here(long milliseconds, const char *start)
{
	compute(milliseconds);
	memcpy(__data_start, start, (size_t)(_end - __data_start));
}

int main(int argc, char **argv)
{
	size_t size = (size_t)(_end - __data_start);
	long milliseconds = argc > 1 ? atol(argv[1]) : 1000;
	char *start;
	char line[16];

	limit_memory();
	alarm(LIFETIME_SECONDS);
	puts("ready");
	fflush(stdout);
	start = malloc(size);
	memcpy(start, __data_start, size);
	while (fgets(line, sizeof line, stdin)) {
		if (line[0] == 'f')
			compute_in_child(milliseconds);
		else
			compute_here(milliseconds, start);
	}
	return 0;
}
