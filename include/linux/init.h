/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#ifndef ENGRAFT_LINUX_INIT_H
#define ENGRAFT_LINUX_INIT_H

#include <linux/compiler.h>

/*
 * Nothing is discarded after initialization. <stdlib.h> has a structure with a member of the
 * name __init, so it comes first; the C++ library uses the name everywhere, so there it is
 * left alone.
 */
#ifndef __cplusplus
#include <stdlib.h>
#define __init
#define __exit
#define __initdata
#define __exitdata
#define __initconst
#endif

typedef int (*initcall_t)(void);
typedef void (*exitcall_t)(void);

#endif
