/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Messages to the target's livepatch log, see `engraft log`. */
#ifndef ENGRAFT_LINUX_PRINTK_H
#define ENGRAFT_LINUX_PRINTK_H

#include <stdarg.h>
#include <linux/compiler.h>

#define KERN_SOH "\001"
#define KERN_EMERG KERN_SOH "0"
#define KERN_ALERT KERN_SOH "1"
#define KERN_CRIT KERN_SOH "2"
#define KERN_ERR KERN_SOH "3"
#define KERN_WARNING KERN_SOH "4"
#define KERN_NOTICE KERN_SOH "5"
#define KERN_INFO KERN_SOH "6"
#define KERN_DEBUG KERN_SOH "7"
#define KERN_DEFAULT ""
#define KERN_CONT KERN_SOH "c"

__ENGRAFT_BEGIN

/* Return the length of the text. %p prints the pointer itself; the kernel's %pGg, %ps, %pS
 * and %px are known. There is no floating point. */
int _printk(const char *fmt, ...) __printf(1, 2);
int vprintk(const char *fmt, va_list args) __printf(1, 0);

__ENGRAFT_END

#define printk(fmt, ...) _printk(fmt, ##__VA_ARGS__)

#ifndef pr_fmt
#define pr_fmt(fmt) fmt
#endif

#define pr_emerg(fmt, ...) printk(KERN_EMERG pr_fmt(fmt), ##__VA_ARGS__)
#define pr_alert(fmt, ...) printk(KERN_ALERT pr_fmt(fmt), ##__VA_ARGS__)
#define pr_crit(fmt, ...) printk(KERN_CRIT pr_fmt(fmt), ##__VA_ARGS__)
#define pr_err(fmt, ...) printk(KERN_ERR pr_fmt(fmt), ##__VA_ARGS__)
#define pr_warn(fmt, ...) printk(KERN_WARNING pr_fmt(fmt), ##__VA_ARGS__)
#define pr_warning pr_warn
#define pr_notice(fmt, ...) printk(KERN_NOTICE pr_fmt(fmt), ##__VA_ARGS__)
#define pr_info(fmt, ...) printk(KERN_INFO pr_fmt(fmt), ##__VA_ARGS__)
#define pr_debug(fmt, ...) printk(KERN_DEBUG pr_fmt(fmt), ##__VA_ARGS__)
#define pr_cont(fmt, ...) printk(KERN_CONT fmt, ##__VA_ARGS__)

#define __ENGRAFT_ONCE(call) \
	do { \
		static bool __printed; \
		if (!__atomic_test_and_set(&__printed, __ATOMIC_RELAXED)) \
			call; \
	} while (0)

#define printk_once(fmt, ...) __ENGRAFT_ONCE(printk(fmt, ##__VA_ARGS__))
#define pr_err_once(fmt, ...) __ENGRAFT_ONCE(pr_err(fmt, ##__VA_ARGS__))
#define pr_warn_once(fmt, ...) __ENGRAFT_ONCE(pr_warn(fmt, ##__VA_ARGS__))
#define pr_info_once(fmt, ...) __ENGRAFT_ONCE(pr_info(fmt, ##__VA_ARGS__))

#endif
