/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Module parameters: one record of the section __param each (engraft-abi: ParamRecord). */
#ifndef ENGRAFT_LINUX_MODULEPARAM_H
#define ENGRAFT_LINUX_MODULEPARAM_H

#include <linux/compiler.h>
#include <linux/types.h>

/* "tag=value" in the section .modinfo. */
#define MODULE_INFO(tag, info) \
	static const char __UNIQUE_ID(modinfo)[] \
	__ENGRAFT_KEEP __attribute__((__section__(".modinfo"), __aligned__(1))) = #tag "=" info

#define MODULE_PARM_DESC(name, description) MODULE_INFO(parm, #name ":" description)

enum engraft_param_kind {
	ENGRAFT_PARAM_bool = 1,
	ENGRAFT_PARAM_byte = 2,
	ENGRAFT_PARAM_short = 3,
	ENGRAFT_PARAM_ushort = 4,
	ENGRAFT_PARAM_int = 5,
	ENGRAFT_PARAM_uint = 6,
	ENGRAFT_PARAM_long = 7,
	ENGRAFT_PARAM_ulong = 8,
	ENGRAFT_PARAM_ullong = 9,
	ENGRAFT_PARAM_charp = 10,
};

typedef bool engraft_param_bool;
typedef unsigned char engraft_param_byte;
typedef short engraft_param_short;
typedef unsigned short engraft_param_ushort;
typedef int engraft_param_int;
typedef unsigned int engraft_param_uint;
typedef long engraft_param_long;
typedef unsigned long engraft_param_ulong;
typedef unsigned long long engraft_param_ullong;
typedef char *engraft_param_charp;

#define ENGRAFT_PARAM_IS_ARRAY 0x100U

struct engraft_param {
	const char *name;
	void *variable;
	unsigned int *count;
	unsigned int kind;
	unsigned int elements;
};

/* `bool` may be a macro, so the type is pasted where the author wrote it and nowhere else. */
#define __ENGRAFT_PARAM(param, text, described, type, kind, place, number, length) \
	MODULE_INFO(parmtype, text described); \
	static inline __attribute__((__unused__)) type *__engraft_check_##param(void) \
	{ \
		return (place); \
	} \
	static const struct engraft_param __param_##param \
	__ENGRAFT_KEEP __attribute__((__section__("__param"), __aligned__(8))) = { \
		text, (void *)(place), (number), (unsigned int)(kind), (length) \
	}

/* The permissions are those of /sys/module/<name>/parameters in the kernel; here every
 * parameter can be set when the module is loaded. */
#define module_param_named(name, variable, type, perm) \
	__ENGRAFT_PARAM(name, #name, ":" #type, engraft_param_##type, ENGRAFT_PARAM_##type, \
			&(variable), NULL, 1)

#define module_param(name, type, perm) \
	__ENGRAFT_PARAM(name, #name, ":" #type, engraft_param_##type, ENGRAFT_PARAM_##type, \
			&(name), NULL, 1)

#define __ENGRAFT_PARAM_ARRAY(name, text, described, type, kind, array, number) \
	__ENGRAFT_PARAM(name, text, described, type, (unsigned int)(kind) | ENGRAFT_PARAM_IS_ARRAY, \
			&(array)[0], (unsigned int *)(number), \
			(unsigned int)(sizeof(array) / sizeof((array)[0])))

/* number: NULL, or the address of the variable that receives the number of values. */
#define module_param_array_named(name, array, type, number, perm) \
	__ENGRAFT_PARAM_ARRAY(name, #name, ":array of " #type, engraft_param_##type, \
			      ENGRAFT_PARAM_##type, array, number)

#define module_param_array(name, type, number, perm) \
	__ENGRAFT_PARAM_ARRAY(name, #name, ":array of " #type, engraft_param_##type, \
			      ENGRAFT_PARAM_##type, name, number)

#endif
