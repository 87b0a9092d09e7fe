/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Annotations that the kernel's sources use. */
#ifndef ENGRAFT_LINUX_COMPILER_H
#define ENGRAFT_LINUX_COMPILER_H

#ifndef likely
#define likely(x) __builtin_expect(!!(x), 1)
#endif
#ifndef unlikely
#define unlikely(x) __builtin_expect(!!(x), 0)
#endif

#ifndef __always_inline
#define __always_inline inline __attribute__((__always_inline__))
#endif
#ifndef noinline
#define noinline __attribute__((__noinline__))
#endif
#ifndef __maybe_unused
#define __maybe_unused __attribute__((__unused__))
#endif
#ifndef __must_check
#define __must_check __attribute__((__warn_unused_result__))
#endif
#ifndef __printf
#define __printf(format, arguments) __attribute__((__format__(__printf__, format, arguments)))
#endif
#ifndef __aligned
#define __aligned(n) __attribute__((__aligned__(n)))
#endif
#ifndef __packed
#define __packed __attribute__((__packed__))
#endif
#ifndef __weak
#define __weak __attribute__((__weak__))
#endif
#define __user
#define asmlinkage

#define barrier() __asm__ __volatile__("" : : : "memory")
#define smp_mb() __atomic_thread_fence(__ATOMIC_SEQ_CST)
#define smp_rmb() __atomic_thread_fence(__ATOMIC_ACQUIRE)
#define smp_wmb() __atomic_thread_fence(__ATOMIC_RELEASE)
#define READ_ONCE(x) (*(const volatile __typeof__(x) *)&(x))
#define WRITE_ONCE(x, value) (*(volatile __typeof__(x) *)&(x) = (value))
#define smp_load_acquire(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
#define smp_store_release(p, value) __atomic_store_n((p), (value), __ATOMIC_RELEASE)
#define cpu_relax() __builtin_ia32_pause()

#define __ENGRAFT_PASTE2(a, b) a##b
#define __ENGRAFT_PASTE(a, b) __ENGRAFT_PASTE2(a, b)
#define __UNIQUE_ID(prefix) __ENGRAFT_PASTE(__ENGRAFT_PASTE(__UNIQUE_ID_, prefix), __COUNTER__)

/* Kept although nothing refers to it. Not "retain": clang then makes a section of its own
 * for every variable. */
#define __ENGRAFT_KEEP __attribute__((__used__))

/* A declaration whose linker name cannot collide with a symbol of the target. */
#define __ENGRAFT_NAME(name) __asm__("engraft_" #name)

#ifdef __cplusplus
#define __ENGRAFT_BEGIN extern "C" {
#define __ENGRAFT_END }
#else
#define __ENGRAFT_BEGIN
#define __ENGRAFT_END
#endif

#endif
