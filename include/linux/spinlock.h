/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Locks that spin, then let others run. They are not fair and know no interrupts. */
#ifndef ENGRAFT_LINUX_SPINLOCK_H
#define ENGRAFT_LINUX_SPINLOCK_H

#include <linux/compiler.h>
#include <linux/sched.h>
#include <linux/types.h>

typedef struct {
	bool engraft_held;
} spinlock_t;

#define __SPIN_LOCK_UNLOCKED(name) { false }
#define DEFINE_SPINLOCK(name) spinlock_t name = __SPIN_LOCK_UNLOCKED(name)

static inline void spin_lock_init(spinlock_t *lock)
{
	lock->engraft_held = false;
}

static inline bool spin_trylock(spinlock_t *lock)
{
	return !__atomic_test_and_set(&lock->engraft_held, __ATOMIC_ACQUIRE);
}

static inline void spin_lock(spinlock_t *lock)
{
	unsigned int tries = 0;

	while (!spin_trylock(lock)) {
		if (++tries % 64)
			cpu_relax();
		else
			schedule();
	}
}

static inline void spin_unlock(spinlock_t *lock)
{
	__atomic_clear(&lock->engraft_held, __ATOMIC_RELEASE);
}

#define spin_lock_irqsave(lock, flags) \
	do { \
		(flags) = 0; \
		spin_lock(lock); \
	} while (0)
#define spin_unlock_irqrestore(lock, flags) \
	do { \
		(void)(flags); \
		spin_unlock(lock); \
	} while (0)

#endif
