/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* What the server's files share with each other. */
#ifndef SERVER_H
#define SERVER_H

/* server.c */
void die(const char *what);
void note_result(long result); /* counts it when it is EINTR */
void start_thread(void *(*body)(void *), const char *name);

/* idle.c */
void start_sleepers(void);
void *spin(void *unused);
unsigned long take_longest_gap(void); /* nanoseconds */

#endif
