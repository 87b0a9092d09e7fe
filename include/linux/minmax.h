/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Left out in C++, where the names belong to the standard library. */
#ifndef ENGRAFT_LINUX_MINMAX_H
#define ENGRAFT_LINUX_MINMAX_H

#ifndef __cplusplus

#define __ENGRAFT_PICK(type_a, a, type_b, b, op) \
	__extension__({ \
		type_a __pick_a = (a); \
		type_b __pick_b = (b); \
		__pick_a op __pick_b ? __pick_a : __pick_b; \
	})

#ifndef min
#define min(a, b) __ENGRAFT_PICK(__typeof__(a), a, __typeof__(b), b, <)
#endif
#ifndef max
#define max(a, b) __ENGRAFT_PICK(__typeof__(a), a, __typeof__(b), b, >)
#endif
#ifndef min_t
#define min_t(type, a, b) __ENGRAFT_PICK(type, a, type, b, <)
#endif
#ifndef max_t
#define max_t(type, a, b) __ENGRAFT_PICK(type, a, type, b, >)
#endif
#ifndef clamp
#define clamp(value, low, high) min(max(value, low), high)
#endif
#ifndef swap
#define swap(a, b) \
	do { \
		__typeof__(a) __swap = (a); \
		(a) = (b); \
		(b) = __swap; \
	} while (0)
#endif

#endif

#endif
