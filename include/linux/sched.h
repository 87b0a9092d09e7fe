/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#ifndef ENGRAFT_LINUX_SCHED_H
#define ENGRAFT_LINUX_SCHED_H

/* The C library includes the header of the same name for its own ends. */
#if __has_include_next(<linux/sched.h>)
#include_next <linux/sched.h>
#endif
#include <linux/compiler.h>
#include <linux/types.h>

#define TASK_COMM_LEN 16

/* pid: the thread's number; tgid: the process's. */
struct task_struct {
	pid_t pid;
	pid_t tgid;
	char comm[TASK_COMM_LEN];
};

__ENGRAFT_BEGIN

struct task_struct *engraft_read_task(struct task_struct *task);
void schedule(void) __ENGRAFT_NAME(schedule);

__ENGRAFT_END

#define cond_resched() schedule()
#define yield() schedule()

#ifndef __cplusplus
/* What is true of the calling thread now; lives as long as the enclosing block. */
#define current engraft_read_task(&(struct task_struct){ 0 })
#endif

#endif
