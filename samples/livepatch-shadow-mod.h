/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* What livepatch-shadow-mod.c and the patches for it agree on. */
#ifndef LIVEPATCH_SHADOW_MOD_H
#define LIVEPATCH_SHADOW_MOD_H

#include <stdbool.h>
#include <time.h>

/* How long a dummy lives. */
#ifndef EXPIRY_SECONDS
#define EXPIRY_SECONDS 4
#endif

struct dummy {
	struct dummy *next;
	time_t expires;
};

#endif
