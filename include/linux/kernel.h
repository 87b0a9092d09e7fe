/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#ifndef ENGRAFT_LINUX_KERNEL_H
#define ENGRAFT_LINUX_KERNEL_H

/* The C library includes the header of the same name for its own ends. */
#if __has_include_next(<linux/kernel.h>)
#include_next <linux/kernel.h>
#endif
#include <limits.h>
#include <stdarg.h>
#include <linux/bug.h>
#include <linux/compiler.h>
#include <linux/container_of.h>
#include <linux/err.h>
#include <linux/errno.h>
#include <linux/minmax.h>
#include <linux/printk.h>
#include <linux/types.h>

#ifndef ARRAY_SIZE
#define ARRAY_SIZE(array) (sizeof(array) / sizeof((array)[0]))
#endif

#ifndef __stringify
#define __stringify_1(...) #__VA_ARGS__
#define __stringify(...) __stringify_1(__VA_ARGS__)
#endif

#ifndef DIV_ROUND_UP
#define DIV_ROUND_UP(n, d) (((n) + (d) - 1) / (d))
#endif
#ifndef ALIGN
#define ALIGN(x, a) (((x) + ((__typeof__(x))(a) - 1)) & ~((__typeof__(x))(a) - 1))
#endif
#ifndef BIT
#define BIT(n) (1UL << (n))
#endif

__ENGRAFT_BEGIN

/* Like snprintf, but return the number of characters written. */
int scnprintf(char *buffer, size_t size, const char *fmt, ...)
	__ENGRAFT_NAME(scnprintf) __printf(3, 4);
int vscnprintf(char *buffer, size_t size, const char *fmt, va_list args)
	__ENGRAFT_NAME(vscnprintf) __printf(3, 0);

__ENGRAFT_END

#endif
