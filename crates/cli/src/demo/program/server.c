/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * A small shop server: one thread waits in epoll and reads requests, eight workers answer
 * them. It prints its port, serves until its standard input ends, and knows nothing of
 * livepatching.
 *
 *	order ID QUANTITY UNIT_PRICE -> ID HANDLER PRICE FORMAT TOTAL TEXT (see shop.h)
 *	counters                     -> counters ORDERS EINTRS
 *	gap                          -> gap NANOSECONDS (longest since the last question)
 *
 * Beside them sleepers block in various system calls, and one thread spins and measures
 * for how long it did not run.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "server.h"
#include "shop.h"

enum { WORKERS = 8, QUEUE = 256, LINE = 128 };

struct connection {
	int fd;
	int users; /* the epoll thread and every queued order */
	pthread_mutex_t write_lock;
	size_t length;
	char input[1024];
};

struct job {
	struct connection *connection;
	struct order order;
};

static struct {
	pthread_mutex_t lock;
	pthread_cond_t not_empty, not_full;
	size_t first, count;
	struct job jobs[QUEUE];
} queue = {
	.lock = PTHREAD_MUTEX_INITIALIZER,
	.not_empty = PTHREAD_COND_INITIALIZER,
	.not_full = PTHREAD_COND_INITIALIZER,
};

static unsigned long orders;
static unsigned long interrupted_calls;

void die(const char *what)
{
	perror(what);
	exit(1);
}

void note_result(long result)
{
	if (result < 0 && errno == EINTR)
		__atomic_add_fetch(&interrupted_calls, 1, __ATOMIC_RELAXED);
}

void start_thread(void *(*body)(void *), const char *name)
{
	pthread_t thread;

	if (pthread_create(&thread, NULL, body, NULL))
		die("pthread_create");
	pthread_setname_np(thread, name);
}

static void put_connection(struct connection *connection)
{
	if (__atomic_sub_fetch(&connection->users, 1, __ATOMIC_ACQ_REL))
		return;
	close(connection->fd);
	pthread_mutex_destroy(&connection->write_lock);
	free(connection);
}

static void put_job(struct connection *connection, const struct order *order)
{
	struct job *job;

	__atomic_add_fetch(&connection->users, 1, __ATOMIC_RELAXED);
	pthread_mutex_lock(&queue.lock);
	while (queue.count == QUEUE)
		pthread_cond_wait(&queue.not_full, &queue.lock);
	job = &queue.jobs[(queue.first + queue.count++) % QUEUE];
	job->connection = connection;
	job->order = *order;
	pthread_cond_signal(&queue.not_empty);
	pthread_mutex_unlock(&queue.lock);
}

static struct job take_job(void)
{
	struct job job;

	pthread_mutex_lock(&queue.lock);
	while (!queue.count)
		pthread_cond_wait(&queue.not_empty, &queue.lock);
	job = queue.jobs[queue.first];
	queue.first = (queue.first + 1) % QUEUE;
	queue.count--;
	pthread_cond_signal(&queue.not_full);
	pthread_mutex_unlock(&queue.lock);
	return job;
}

static void send_line(struct connection *connection, const char *line)
{
	size_t left = strlen(line);

	pthread_mutex_lock(&connection->write_lock);
	while (left) {
		ssize_t sent = send(connection->fd, line, left, MSG_NOSIGNAL);

		note_result(sent);
		if (sent > 0) {
			line += sent;
			left -= sent;
		} else if (errno == EAGAIN) {
			struct pollfd pollfd = { .fd = connection->fd, .events = POLLOUT };

			note_result(poll(&pollfd, 1, -1));
		} else if (errno != EINTR) {
			break;
		}
	}
	pthread_mutex_unlock(&connection->write_lock);
}

void look_up_stock(const struct order *order)
{
	struct timespec delay = { .tv_nsec = order->id % 64 ? 100 * 1000 : 3000 * 1000 };

	note_result(nanosleep(&delay, NULL));
}

static void *work(void *unused)
{
	(void)unused;
	for (;;) {
		struct job job = take_job();
		struct receipt receipt = { 0 };
		char line[LINE];

		handle_request(&job.order, &receipt);
		snprintf(line, sizeof(line), "%lu %d %d %d %lld %s\n", job.order.id,
			 receipt.handler_version, receipt.price_version,
			 receipt.format_version, receipt.total, receipt.text);
		send_line(job.connection, line);
		put_connection(job.connection);
		__atomic_add_fetch(&orders, 1, __ATOMIC_RELAXED);
	}
	return NULL;
}

static int handle_line(struct connection *connection, const char *text)
{
	struct order order;
	char line[LINE];

	if (sscanf(text, "order %lu %lld %lld", &order.id, &order.quantity,
		   &order.unit_price) == 3) {
		put_job(connection, &order);
		return 1;
	}
	if (!strcmp(text, "counters"))
		snprintf(line, sizeof(line), "counters %lu %lu\n",
			 __atomic_load_n(&orders, __ATOMIC_RELAXED),
			 __atomic_load_n(&interrupted_calls, __ATOMIC_RELAXED));
	else if (!strcmp(text, "gap"))
		snprintf(line, sizeof(line), "gap %lu\n", take_longest_gap());
	else
		return 0;
	send_line(connection, line);
	return 1;
}

/* Returns 0 when the connection is to be closed. */
static int read_requests(struct connection *connection)
{
	char *start, *end;
	ssize_t got = recv(connection->fd, connection->input + connection->length,
			   sizeof(connection->input) - connection->length, 0);

	note_result(got);
	if (got < 0)
		return errno == EAGAIN || errno == EINTR;
	if (!got)
		return 0;
	connection->length += got;
	for (start = connection->input;
	     (end = memchr(start, '\n', connection->input + connection->length - start));
	     start = end + 1) {
		*end = '\0';
		if (!handle_line(connection, start))
			return 0;
	}
	connection->length -= start - connection->input;
	memmove(connection->input, start, connection->length);
	return connection->length < sizeof(connection->input);
}

static void accept_connection(int listener, int poller)
{
	struct epoll_event event = { .events = EPOLLIN };
	struct connection *connection;
	int on = 1;
	int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

	note_result(fd);
	if (fd < 0)
		return;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	connection = calloc(1, sizeof(*connection));
	if (!connection)
		die("calloc");
	connection->fd = fd;
	connection->users = 1;
	pthread_mutex_init(&connection->write_lock, NULL);
	event.data.ptr = connection;
	if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event))
		die("epoll_ctl");
}

static int listen_on_loopback(void)
{
	struct sockaddr_in address = { .sin_family = AF_INET,
				       .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t length = sizeof(address);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0 || bind(fd, (struct sockaddr *)&address, length) || listen(fd, 64) ||
	    getsockname(fd, (struct sockaddr *)&address, &length))
		die("listen");
	printf("%d\n", ntohs(address.sin_port));
	fflush(stdout);
	return fd;
}

static void *serve(void *unused)
{
	int poller = epoll_create1(EPOLL_CLOEXEC);
	int listener = listen_on_loopback();
	struct epoll_event event = { .events = EPOLLIN };

	(void)unused;
	if (poller < 0 || epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event))
		die("epoll");
	for (;;) {
		struct epoll_event events[16];
		int i, ready = epoll_wait(poller, events, 16, 1000);

		note_result(ready);
		for (i = 0; i < ready; i++) {
			struct connection *connection = events[i].data.ptr;

			if (!connection) {
				accept_connection(listener, poller);
			} else if (!read_requests(connection)) {
				epoll_ctl(poller, EPOLL_CTL_DEL, connection->fd, NULL);
				shutdown(connection->fd, SHUT_RDWR);
				put_connection(connection);
			}
		}
	}
	return NULL;
}

int main(void)
{
	char byte;
	ssize_t got;
	int i;

	for (i = 0; i < WORKERS; i++)
		start_thread(work, "worker");
	start_sleepers();
	start_thread(spin, "spinner");
	start_thread(serve, "epoll");
	do {
		got = read(STDIN_FILENO, &byte, 1);
		note_result(got);
	} while (got > 0 || (got < 0 && errno == EINTR));
	return 0;
}
