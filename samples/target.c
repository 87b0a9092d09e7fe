// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * A program to be patched. It prints a line a second through print_line(), which
 * livepatch-sample.c replaces, and loads and unloads libraries when told to on standard
 * input, for the callbacks samples:
 *
 *	load ./livepatch-callbacks-mod.so
 *	unload ./livepatch-callbacks-mod.so
 */
#include <dlfcn.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define MAX_LIBRARIES 16

struct library {
	char path[256];
	void *handle;
};

static struct library libraries[MAX_LIBRARIES];

__attribute__((__noinline__)) void print_line(unsigned long number)
{
	printf("%lu: this is the original\n", number);
}

static void load_library(const char *path)
{
	for (int i = 0; i < MAX_LIBRARIES; i++) {
		struct library *library = &libraries[i];

		if (library->handle)
			continue;
		snprintf(library->path, sizeof(library->path), "%s", path);
		library->handle = dlopen(path, RTLD_NOW);
		if (!library->handle)
			fprintf(stderr, "target: %s\n", dlerror());
		return;
	}
	fprintf(stderr, "target: %d libraries are loaded already\n", MAX_LIBRARIES);
}

static void unload_library(const char *path)
{
	for (int i = 0; i < MAX_LIBRARIES; i++) {
		struct library *library = &libraries[i];

		if (library->handle && strcmp(library->path, path) == 0) {
			dlclose(library->handle);
			library->handle = NULL;
			return;
		}
	}
	fprintf(stderr, "target: %s is not loaded\n", path);
}

static void obey(char *line)
{
	line[strcspn(line, "\n")] = '\0';
	if (strncmp(line, "load ", 5) == 0)
		load_library(line + 5);
	else if (strncmp(line, "unload ", 7) == 0)
		unload_library(line + 7);
	else
		fprintf(stderr, "target: load PATH or unload PATH, not: %s\n", line);
}

int main(void)
{
	struct pollfd input = { .fd = STDIN_FILENO, .events = POLLIN };
	char line[256];

	setvbuf(stdout, NULL, _IOLBF, 0);
	setvbuf(stdin, NULL, _IONBF, 0);
	for (unsigned long number = 1;; number++) {
		print_line(number);
		if (poll(&input, 1, 1000) <= 0)
			continue;
		if (fgets(line, sizeof(line), stdin))
			obey(line);
		else
			input.fd = -1;
	}
}
