/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#ifndef ENGRAFT_LINUX_GFP_H
#define ENGRAFT_LINUX_GFP_H

#include <linux/types.h>

#define __GFP_HIGH ((gfp_t)0x20)
#define __GFP_ZERO ((gfp_t)0x100)
#define __GFP_NOWARN ((gfp_t)0x2000)
#define GFP_NOWAIT ((gfp_t)0x800)
#define GFP_ATOMIC ((gfp_t)0x820)
#define GFP_KERNEL ((gfp_t)0xcc0)

#endif
