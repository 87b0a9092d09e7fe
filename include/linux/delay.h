/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#ifndef ENGRAFT_LINUX_DELAY_H
#define ENGRAFT_LINUX_DELAY_H

#include <linux/compiler.h>

__ENGRAFT_BEGIN

/* Sleep the whole time, whatever signals arrive. */
void msleep(unsigned int milliseconds) __ENGRAFT_NAME(msleep);
void usleep_range(unsigned long min, unsigned long max) __ENGRAFT_NAME(usleep_range);

__ENGRAFT_END

#define ssleep(seconds) msleep((seconds) * 1000)
#define mdelay(milliseconds) msleep(milliseconds)
#define udelay(microseconds) usleep_range((microseconds), (microseconds))

#endif
