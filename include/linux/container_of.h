/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#ifndef ENGRAFT_LINUX_CONTAINER_OF_H
#define ENGRAFT_LINUX_CONTAINER_OF_H

#include <stddef.h>

#ifndef container_of
#define container_of(pointer, type, member) \
	((type *)((char *)(pointer) - offsetof(type, member)))
#endif

#endif
