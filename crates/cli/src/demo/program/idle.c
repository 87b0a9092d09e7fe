/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Threads that take no orders: each sleeper blocks in one system call over and over, the
 * spinner watches the clock.
 */
#define _GNU_SOURCE
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include <sys/epoll.h>
#include <sys/ipc.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>

#include "server.h"

enum { PAUSE_MS = 400 };

static const struct timespec pause_time = { .tv_nsec = PAUSE_MS * 1000000L };
static unsigned long longest_gap;
static int semaphore;

static void *sleep_in_nanosleep(void *unused)
{
	(void)unused;
	for (;;)
		note_result(nanosleep(&pause_time, NULL));
	return NULL;
}

static void *sleep_in_poll(void *unused)
{
	(void)unused;
	for (;;)
		note_result(poll(NULL, 0, PAUSE_MS));
	return NULL;
}

static void *sleep_in_select(void *unused)
{
	(void)unused;
	for (;;) {
		struct timeval timeout = { .tv_usec = PAUSE_MS * 1000 };

		note_result(select(0, NULL, NULL, NULL, &timeout));
	}
	return NULL;
}

static void *sleep_in_epoll(void *unused)
{
	int poller = epoll_create1(EPOLL_CLOEXEC);
	struct epoll_event event;

	(void)unused;
	if (poller < 0)
		die("epoll_create1");
	for (;;)
		note_result(epoll_wait(poller, &event, 1, PAUSE_MS));
	return NULL;
}

static void *sleep_in_futex(void *unused)
{
	static int word;

	(void)unused;
	for (;;)
		note_result(syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, &pause_time,
				    NULL, 0));
	return NULL;
}

/* Nobody sends SIGUSR1. */
static void *sleep_in_sigtimedwait(void *unused)
{
	sigset_t set;

	(void)unused;
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	for (;;)
		note_result(sigtimedwait(&set, NULL, &pause_time));
	return NULL;
}

/* A System V semaphore would outlive the process. */
static void remove_semaphore(void)
{
	semctl(semaphore, 0, IPC_RMID);
}

static void *sleep_in_semtimedop(void *unused)
{
	struct sembuf down = { .sem_num = 0, .sem_op = -1 };

	(void)unused;
	semaphore = semget(IPC_PRIVATE, 1, 0600);
	if (semaphore < 0)
		die("semget");
	atexit(remove_semaphore);
	for (;;)
		note_result(semtimedop(semaphore, &down, 1, &pause_time));
	return NULL;
}

static void *sleep_in_recv(void *unused)
{
	struct timeval timeout = { .tv_usec = PAUSE_MS * 1000 };
	int pair[2];
	char byte;

	(void)unused;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) ||
	    setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout)))
		die("socketpair");
	for (;;)
		note_result(recv(pair[0], &byte, 1, 0));
	return NULL;
}

void start_sleepers(void)
{
	start_thread(sleep_in_nanosleep, "in-nanosleep");
	start_thread(sleep_in_poll, "in-poll");
	start_thread(sleep_in_select, "in-select");
	start_thread(sleep_in_epoll, "in-epoll");
	start_thread(sleep_in_futex, "in-futex");
	start_thread(sleep_in_sigtimedwait, "in-sigtimedwait");
	start_thread(sleep_in_semtimedop, "in-semtimedop");
	start_thread(sleep_in_recv, "in-recv");
}

static unsigned long nanoseconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000UL + now.tv_nsec;
}

void *spin(void *unused)
{
	unsigned long last = nanoseconds();

	(void)unused;
	for (;;) {
		unsigned long now = nanoseconds();

		if (now - last > __atomic_load_n(&longest_gap, __ATOMIC_RELAXED))
			__atomic_store_n(&longest_gap, now - last, __ATOMIC_RELAXED);
		last = now;
	}
	return NULL;
}

unsigned long take_longest_gap(void)
{
	return __atomic_exchange_n(&longest_gap, 0, __ATOMIC_RELAXED);
}
