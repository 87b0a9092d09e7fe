/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#ifndef ENGRAFT_LINUX_STRING_H
#define ENGRAFT_LINUX_STRING_H

#include <string.h>
#include <linux/compiler.h>
#include <linux/types.h>

__ENGRAFT_BEGIN

/* Copies in the allocator's memory: to be freed by kfree(). */
char *kstrdup(const char *text, gfp_t flags) __ENGRAFT_NAME(kstrdup);
char *kstrndup(const char *text, size_t max, gfp_t flags) __ENGRAFT_NAME(kstrndup);
void *kmemdup(const void *source, size_t length, gfp_t flags) __ENGRAFT_NAME(kmemdup);

/* Copies what fits and always terminates; -E2BIG when something was cut off. */
ssize_t strscpy(char *destination, const char *source, size_t size) __ENGRAFT_NAME(strscpy);

__ENGRAFT_END

#endif
