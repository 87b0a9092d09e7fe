/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Bits of arrays of unsigned long. Those without underscores are atomic. */
#ifndef ENGRAFT_LINUX_BITOPS_H
#define ENGRAFT_LINUX_BITOPS_H

#include <linux/compiler.h>
#include <linux/types.h>

#ifndef BITS_PER_LONG
#define BITS_PER_LONG 64
#endif
#ifndef BIT
#define BIT(n) (1UL << (n))
#endif
#ifndef BITS_TO_LONGS
#define BITS_TO_LONGS(n) (((n) + BITS_PER_LONG - 1) / BITS_PER_LONG)
#endif
#define DECLARE_BITMAP(name, bits) unsigned long name[BITS_TO_LONGS(bits)]

#define __ENGRAFT_WORD(n) ((n) / BITS_PER_LONG)
#define __ENGRAFT_MASK(n) (1UL << ((n) % BITS_PER_LONG))

static inline void set_bit(long n, volatile unsigned long *bits)
{
	__atomic_fetch_or(&bits[__ENGRAFT_WORD(n)], __ENGRAFT_MASK(n), __ATOMIC_SEQ_CST);
}

static inline void clear_bit(long n, volatile unsigned long *bits)
{
	__atomic_fetch_and(&bits[__ENGRAFT_WORD(n)], ~__ENGRAFT_MASK(n), __ATOMIC_SEQ_CST);
}

static inline bool test_and_set_bit(long n, volatile unsigned long *bits)
{
	return (__atomic_fetch_or(&bits[__ENGRAFT_WORD(n)], __ENGRAFT_MASK(n), __ATOMIC_SEQ_CST) &
		__ENGRAFT_MASK(n)) != 0;
}

static inline bool test_and_clear_bit(long n, volatile unsigned long *bits)
{
	return (__atomic_fetch_and(&bits[__ENGRAFT_WORD(n)], ~__ENGRAFT_MASK(n),
				   __ATOMIC_SEQ_CST) &
		__ENGRAFT_MASK(n)) != 0;
}

static inline bool test_bit(long n, const volatile unsigned long *bits)
{
	return (bits[__ENGRAFT_WORD(n)] & __ENGRAFT_MASK(n)) != 0;
}

static inline void __set_bit(long n, unsigned long *bits)
{
	bits[__ENGRAFT_WORD(n)] |= __ENGRAFT_MASK(n);
}

static inline void __clear_bit(long n, unsigned long *bits)
{
	bits[__ENGRAFT_WORD(n)] &= ~__ENGRAFT_MASK(n);
}

#endif
