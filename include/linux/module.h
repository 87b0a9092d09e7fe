/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#ifndef ENGRAFT_LINUX_MODULE_H
#define ENGRAFT_LINUX_MODULE_H

/* The C library includes the header of the same name for its own ends. */
#if __has_include_next(<linux/module.h>)
#include_next <linux/module.h>
#endif
#include <linux/compiler.h>
#include <linux/errno.h>
#include <linux/init.h>
#include <linux/kernel.h>
#include <linux/moduleparam.h>
#include <linux/types.h>

#define MODULE_NAME_LEN 56

enum module_state {
	MODULE_STATE_LIVE,
	MODULE_STATE_COMING,
	MODULE_STATE_GOING,
	MODULE_STATE_UNFORMED,
};

/* A patch module, or a library of the target: see klp_object.mod. */
struct module {
	enum module_state state;
	char name[MODULE_NAME_LEN];
	unsigned int engraft_reserved;
};

__ENGRAFT_BEGIN

int init_module(void);
void cleanup_module(void);

extern struct module __this_module;

__ENGRAFT_END

#define THIS_MODULE (&__this_module)

/* Weak, because a module may consist of several files that all include this. */
#ifdef KBUILD_MODNAME
__attribute__((__weak__, __section__(".data"))) struct module __this_module = {
	MODULE_STATE_UNFORMED, KBUILD_MODNAME, 0
};
#endif

#define module_init(function) \
	int init_module(void) \
	{ \
		return function(); \
	} \
	extern int __UNIQUE_ID(engraft_end)

#define module_exit(function) \
	void cleanup_module(void) \
	{ \
		function(); \
	} \
	extern int __UNIQUE_ID(engraft_end)

#define MODULE_LICENSE(text) MODULE_INFO(license, text)
#define MODULE_AUTHOR(text) MODULE_INFO(author, text)
#define MODULE_DESCRIPTION(text) MODULE_INFO(description, text)
#define MODULE_VERSION(text) MODULE_INFO(version, text)
#define MODULE_ALIAS(text) MODULE_INFO(alias, text)

/* Symbols of a module are not offered to others. */
#define EXPORT_SYMBOL(symbol) extern int __UNIQUE_ID(engraft_export)
#define EXPORT_SYMBOL_GPL(symbol) EXPORT_SYMBOL(symbol)

static inline bool try_module_get(struct module *module)
{
	(void)module;
	return true;
}

static inline void module_put(struct module *module)
{
	(void)module;
}

#endif
