/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#ifndef ENGRAFT_LINUX_ATOMIC_H
#define ENGRAFT_LINUX_ATOMIC_H

#include <linux/compiler.h>
#include <linux/types.h>

#define ATOMIC_INIT(value) { (value) }
#define ATOMIC64_INIT(value) { (value) }

#define __ENGRAFT_ATOMIC(prefix, atomic, integer) \
	static inline integer prefix##_read(const atomic *v) \
	{ \
		return __atomic_load_n(&v->counter, __ATOMIC_RELAXED); \
	} \
	static inline void prefix##_set(atomic *v, integer value) \
	{ \
		__atomic_store_n(&v->counter, value, __ATOMIC_RELAXED); \
	} \
	static inline integer prefix##_add_return(integer value, atomic *v) \
	{ \
		return __atomic_add_fetch(&v->counter, value, __ATOMIC_SEQ_CST); \
	} \
	static inline integer prefix##_sub_return(integer value, atomic *v) \
	{ \
		return __atomic_sub_fetch(&v->counter, value, __ATOMIC_SEQ_CST); \
	} \
	static inline integer prefix##_xchg(atomic *v, integer value) \
	{ \
		return __atomic_exchange_n(&v->counter, value, __ATOMIC_SEQ_CST); \
	} \
	static inline integer prefix##_cmpxchg(atomic *v, integer old, integer value) \
	{ \
		__atomic_compare_exchange_n(&v->counter, &old, value, false, __ATOMIC_SEQ_CST, \
					    __ATOMIC_SEQ_CST); \
		return old; \
	} \
	static inline void prefix##_add(integer value, atomic *v) \
	{ \
		(void)prefix##_add_return(value, v); \
	} \
	static inline void prefix##_sub(integer value, atomic *v) \
	{ \
		(void)prefix##_sub_return(value, v); \
	} \
	static inline void prefix##_inc(atomic *v) \
	{ \
		(void)prefix##_add_return(1, v); \
	} \
	static inline void prefix##_dec(atomic *v) \
	{ \
		(void)prefix##_sub_return(1, v); \
	} \
	static inline integer prefix##_inc_return(atomic *v) \
	{ \
		return prefix##_add_return(1, v); \
	} \
	static inline integer prefix##_dec_return(atomic *v) \
	{ \
		return prefix##_sub_return(1, v); \
	} \
	static inline bool prefix##_dec_and_test(atomic *v) \
	{ \
		return prefix##_sub_return(1, v) == 0; \
	} \
	static inline bool prefix##_inc_not_zero(atomic *v) \
	{ \
		integer seen = prefix##_read(v); \
		while (seen != 0) { \
			integer old = prefix##_cmpxchg(v, seen, seen + 1); \
			if (old == seen) \
				return true; \
			seen = old; \
		} \
		return false; \
	}

__ENGRAFT_ATOMIC(atomic, atomic_t, int)
__ENGRAFT_ATOMIC(atomic64, atomic64_t, s64)

#endif
