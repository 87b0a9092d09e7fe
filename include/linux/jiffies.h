/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Time in ticks of a millisecond since some point in the past. */
#ifndef ENGRAFT_LINUX_JIFFIES_H
#define ENGRAFT_LINUX_JIFFIES_H

#include <time.h>

#ifndef HZ
#define HZ 1000
#endif

static inline unsigned long engraft_read_jiffies(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (unsigned long)now.tv_sec * 1000UL + (unsigned long)now.tv_nsec / 1000000UL;
}

#define jiffies engraft_read_jiffies()
#define msecs_to_jiffies(milliseconds) ((unsigned long)(milliseconds))
#define jiffies_to_msecs(ticks) ((unsigned int)(ticks))
#define secs_to_jiffies(seconds) ((unsigned long)(seconds) * HZ)

#define time_after(a, b) ((long)((b) - (a)) < 0)
#define time_before(a, b) time_after(b, a)
#define time_after_eq(a, b) ((long)((a) - (b)) >= 0)
#define time_before_eq(a, b) time_after_eq(b, a)

#endif
