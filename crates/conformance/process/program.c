// The target on the process' side: the same as kernel/conf_core.c, with commands on stdin and
// answers on stdout. An answer begins with the number of an error, 0 for none.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>
#include "conf_core.h"

#define THREADS 3
#define FUNCTIONS 8
#define LIBRARIES 2

struct worker {
	conf_function *function;
	/* The letter of the object that it is in, while it has a function. */
	char object;
	int hammers, inside, freed, result;
};

/* The kernel's variable of that name, which a livepatch changes. */
int console_printk[4] = { 7, 4, 1, 7 };

static struct { const char *name; conf_function *function; } functions[FUNCTIONS];
static struct { const char *name; void *handle; } libraries[LIBRARIES] = {
	{ "conf_b", NULL }, { "conf_c", NULL },
};
static struct worker workers[THREADS];
static char answer[512];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;

void conf_register(const char *name, conf_function *function, struct module *owner)
{
	(void)owner;
	for (int i = 0; i < FUNCTIONS; i++)
		if (!functions[i].name) {
			functions[i].name = name;
			functions[i].function = function;
			return;
		}
}

void conf_unregister(const char *name)
{
	for (int i = 0; i < FUNCTIONS; i++)
		if (functions[i].name && !strcmp(functions[i].name, name))
			functions[i].name = NULL;
}

void conf_tell(int version)
{
	sprintf(answer, "%d", version);
}

static void set(int *place, int value)
{
	pthread_mutex_lock(&lock);
	*place = value;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
}

static void wait_for(int *place)
{
	pthread_mutex_lock(&lock);
	while (!*place)
		pthread_cond_wait(&changed, &lock);
	pthread_mutex_unlock(&lock);
}

__attribute__((__noinline__)) int conf_body(int thread, int version)
{
	if (thread >= 0) {
		set(&workers[thread].inside, 1);
		wait_for(&workers[thread].freed);
	}
	return version;
}

static void *work(void *data)
{
	struct worker *worker = data;
	int thread = worker - workers;
	char name[16];

	snprintf(name, sizeof name, "conf-%d", thread);
	pthread_setname_np(pthread_self(), name);
	for (;;) {
		conf_function *function;

		pthread_mutex_lock(&lock);
		while (!worker->function)
			pthread_cond_wait(&changed, &lock);
		function = worker->function;
		pthread_mutex_unlock(&lock);
		if (worker->hammers) {
			set(&worker->inside, 1);
			while (!__atomic_load_n(&worker->freed, __ATOMIC_SEQ_CST)) {
				worker->result = function(-1);
				usleep(1000);
			}
		} else {
			worker->result = function(thread);
		}
		pthread_mutex_lock(&lock);
		worker->function = NULL;
		pthread_cond_broadcast(&changed);
		pthread_mutex_unlock(&lock);
	}
	return NULL;
}

static conf_function *find(const char *name)
{
	for (int i = 0; i < FUNCTIONS; i++)
		if (functions[i].name && !strcmp(functions[i].name, name))
			return functions[i].function;
	return NULL;
}

/* A library that a patch refuses comes with no number of an error: only a text says so. */
static int insmod(int library)
{
	char file[16];

	if (libraries[library].handle)
		return EEXIST;
	sprintf(file, "%s.so", libraries[library].name);
	libraries[library].handle = dlopen(file, RTLD_NOW);
	if (libraries[library].handle)
		return 0;
	snprintf(answer, sizeof answer, "%s", dlerror());
	return ELIBBAD;
}

static int rmmod(int library)
{
	char letter = libraries[library].name[strlen("conf_")];

	if (!libraries[library].handle)
		return ENOENT;
	for (int i = 0; i < THREADS; i++)
		if (workers[i].function && workers[i].object == letter)
			return EAGAIN;
	dlclose(libraries[library].handle);
	libraries[library].handle = NULL;
	return 0;
}

static int obey(const char *line)
{
	struct worker *worker;
	conf_function *function;
	char name[16], verb[16];
	int thread;

	if (sscanf(line, "insmod %15s", name) == 1 || sscanf(line, "rmmod %15s", name) == 1) {
		for (int i = 0; i < LIBRARIES; i++)
			if (!strcmp(libraries[i].name, name))
				return line[0] == 'i' ? insmod(i) : rmmod(i);
		return ENOENT;
	}
	if (sscanf(line, "call %15s", name) == 1) {
		function = find(name);
		if (!function)
			return ENOENT;
		sprintf(answer, "%d", function(-1));
		return 0;
	}
	if (sscanf(line, "free %d", &thread) == 1 && thread >= 0 && thread < THREADS) {
		worker = &workers[thread];
		if (!worker->function)
			return ENOENT;
		set(&worker->freed, 1);
		pthread_mutex_lock(&lock);
		while (worker->function)
			pthread_cond_wait(&changed, &lock);
		pthread_mutex_unlock(&lock);
		sprintf(answer, "%d", worker->result);
		return 0;
	}
	if (sscanf(line, "%15s %d %15s", verb, &thread, name) != 3 || thread < 0 || thread >= THREADS)
		return EINVAL;
	worker = &workers[thread];
	function = find(name);
	if (!function || worker->function)
		return ENOENT;
	pthread_mutex_lock(&lock);
	worker->object = name[0];
	worker->hammers = !strcmp(verb, "hammer");
	worker->inside = worker->freed = 0;
	worker->function = function;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
	wait_for(&worker->inside);
	strcpy(answer, "inside");
	return 0;
}

int main(void)
{
	char line[64];

	prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY);
	if (insmod(0))
		return 1;
	for (int i = 0; i < THREADS; i++) {
		pthread_t thread;

		if (pthread_create(&thread, NULL, work, &workers[i]))
			return 1;
	}
	puts("ready");
	fflush(stdout);
	while (fgets(line, sizeof line, stdin)) {
		answer[0] = 0;
		int error = obey(line);
		printf("%d %s\n", error, answer);
		fflush(stdout);
	}
	return 0;
}
