/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#ifndef ENGRAFT_LINUX_MUTEX_H
#define ENGRAFT_LINUX_MUTEX_H

#include <linux/compiler.h>
#include <linux/types.h>

/* 0: free, 1: held, 2: held and waited for. */
struct mutex {
	int engraft_word;
};

#define __MUTEX_INITIALIZER(name) { 0 }
#define DEFINE_MUTEX(name) struct mutex name = __MUTEX_INITIALIZER(name)

__ENGRAFT_BEGIN

void mutex_lock(struct mutex *lock) __ENGRAFT_NAME(mutex_lock);
int mutex_trylock(struct mutex *lock) __ENGRAFT_NAME(mutex_trylock);
void mutex_unlock(struct mutex *lock) __ENGRAFT_NAME(mutex_unlock);

__ENGRAFT_END

static inline void mutex_init(struct mutex *lock)
{
	lock->engraft_word = 0;
}

static inline bool mutex_is_locked(struct mutex *lock)
{
	return __atomic_load_n(&lock->engraft_word, __ATOMIC_RELAXED) != 0;
}

#endif
