/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Memory from the runtime's own allocator, which never calls the target's. */
#ifndef ENGRAFT_LINUX_SLAB_H
#define ENGRAFT_LINUX_SLAB_H

#include <linux/compiler.h>
#include <linux/gfp.h>
#include <linux/types.h>

__ENGRAFT_BEGIN

/* NULL when there is no memory. Aligned to 16 bytes. */
void *kmalloc(size_t size, gfp_t flags) __ENGRAFT_NAME(kmalloc);
void *kzalloc(size_t size, gfp_t flags) __ENGRAFT_NAME(kzalloc);
void *kcalloc(size_t count, size_t size, gfp_t flags) __ENGRAFT_NAME(kcalloc);
void *kmalloc_array(size_t count, size_t size, gfp_t flags) __ENGRAFT_NAME(kmalloc_array);
void *krealloc(const void *memory, size_t size, gfp_t flags) __ENGRAFT_NAME(krealloc);
void kfree(const void *memory) __ENGRAFT_NAME(kfree);
size_t ksize(const void *memory) __ENGRAFT_NAME(ksize);

__ENGRAFT_END

#define kvmalloc(size, flags) kmalloc(size, flags)
#define kvzalloc(size, flags) kzalloc(size, flags)
#define kvfree(memory) kfree(memory)

#endif
