// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * A library that comes and goes. Nothing in it is patched.
 */
#include <stdio.h>

__attribute__((__constructor__)) static void livepatch_callbacks_mod_init(void)
{
	fprintf(stderr, "livepatch_callbacks_mod: %s\n", __func__);
}

__attribute__((__destructor__)) static void livepatch_callbacks_mod_exit(void)
{
	fprintf(stderr, "livepatch_callbacks_mod: %s\n", __func__);
}
