/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Assertions. A failed BUG_ON ends the target by SIGILL, as the kernel's ends the task. */
#ifndef ENGRAFT_LINUX_BUG_H
#define ENGRAFT_LINUX_BUG_H

#include <linux/compiler.h>
#include <linux/printk.h>
#include <linux/types.h>

#define BUG() __builtin_trap()
#define BUG_ON(condition) \
	do { \
		if (unlikely(condition)) \
			BUG(); \
	} while (0)

#define WARN(condition, fmt, ...) \
	__extension__({ \
		bool __warn = !!(condition); \
		if (unlikely(__warn)) \
			printk(KERN_WARNING fmt, ##__VA_ARGS__); \
		unlikely(__warn); \
	})
#define WARN_ON(condition) \
	WARN(condition, "WARNING: at %s:%d %s()\n", __FILE__, __LINE__, __func__)
#define WARN_ON_ONCE(condition) \
	__extension__({ \
		static bool __warned; \
		bool __once = !!(condition); \
		if (unlikely(__once) && !__atomic_test_and_set(&__warned, __ATOMIC_RELAXED)) \
			WARN_ON(true); \
		unlikely(__once); \
	})

#ifdef __cplusplus
#define BUILD_BUG_ON(condition) static_assert(!(condition), #condition)
#else
#define BUILD_BUG_ON(condition) _Static_assert(!(condition), #condition)
#endif

#endif
