/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Error numbers: the C library's, and those that only the kernel's sources use. */
#ifndef ENGRAFT_LINUX_ERRNO_H
#define ENGRAFT_LINUX_ERRNO_H

/* The C library takes its numbers from the header of the same name. */
#if __has_include_next(<linux/errno.h>)
#include_next <linux/errno.h>
#else
#include <errno.h>
#endif

#ifndef ERESTARTSYS
#define ERESTARTSYS 512
#define ERESTARTNOINTR 513
#define ERESTARTNOHAND 514
#define ENOIOCTLCMD 515
#define EPROBE_DEFER 517
#define ENOTSUPP 524
#endif

#endif
