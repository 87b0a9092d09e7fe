/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#ifndef ENGRAFT_LINUX_TYPES_H
#define ENGRAFT_LINUX_TYPES_H

/* The C library includes the header of the same name for its own ends. */
#if __has_include_next(<linux/types.h>)
#include_next <linux/types.h>
#endif
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#ifndef __cplusplus
#include <stdbool.h>
#endif

typedef signed char s8;
typedef unsigned char u8;
typedef short s16;
typedef unsigned short u16;
typedef int s32;
typedef unsigned int u32;
typedef long long s64;
typedef unsigned long long u64;

/* Allocation flags; taken by the allocating functions, which ignore all but __GFP_ZERO. */
typedef unsigned int gfp_t;

typedef unsigned short umode_t;

struct list_head {
	struct list_head *next, *prev;
};

struct hlist_node {
	struct hlist_node *next, **pprev;
};

struct hlist_head {
	struct hlist_node *first;
};

#ifndef ENGRAFT_ATOMIC_T
#define ENGRAFT_ATOMIC_T
typedef struct {
	int counter;
} atomic_t;

typedef struct {
	s64 counter;
} atomic64_t;
#endif

#endif
