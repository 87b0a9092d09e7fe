/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The livepatch interface of a patch module, as the kernel's. Layouts: engraft-abi, klp.rs. */
#ifndef ENGRAFT_LINUX_LIVEPATCH_H
#define ENGRAFT_LINUX_LIVEPATCH_H

#include <linux/compiler.h>
#include <linux/gfp.h>
#include <linux/module.h>
#include <linux/types.h>

/* The version of the structures below (engraft-abi, HEADERS_VERSION). */
MODULE_INFO(engraft, "2");

struct klp_object;

struct klp_func {
	/* The function to be replaced, its replacement, and which one of several
	 * functions of that name is meant (from 1; 0: there is only one). */
	const char *old_name;
	void *new_func;
	unsigned long old_sympos;
};

struct klp_callbacks {
	int (*pre_patch)(struct klp_object *obj);
	void (*post_patch)(struct klp_object *obj);
	void (*pre_unpatch)(struct klp_object *obj);
	void (*post_unpatch)(struct klp_object *obj);
	bool post_unpatch_enabled;
};

struct klp_object {
	/* NULL for the main executable, else the name of a shared library. */
	const char *name;
	struct klp_func *funcs;
	struct klp_callbacks callbacks;
	/* Set by the tool: the library, NULL when it is not loaded. */
	struct module *mod;
};

struct klp_patch;
struct klp_state;

/* What the kernel does not have (docs/states.md): called when the state appears with a patch,
 * or disappears with one; not when another patch carries it over. */
struct klp_state_callbacks {
	int (*pre_patch)(struct klp_patch *patch, struct klp_state *state);
	void (*post_patch)(struct klp_patch *patch, struct klp_state *state);
	void (*pre_unpatch)(struct klp_patch *patch, struct klp_state *state);
	void (*post_unpatch)(struct klp_patch *patch, struct klp_state *state);
	/* For each shadow variable that is freed with the state. */
	void (*shadow_dtor)(void *obj, void *shadow_data);
};

struct klp_state {
	unsigned long id;
	unsigned int version;
	void *data;
	struct klp_state_callbacks callbacks;
	/* The shadow variables whose id is the state's belong to it. */
	bool is_shadow;
	/* It cannot be taken back. */
	bool block_disable;
};

struct klp_patch {
	struct module *mod;
	struct klp_object *objs;
	struct klp_state *states;
	bool replace;
	/* Set by the tool. */
	bool enabled;
	/* A replacing patch replaces those of its own set only. */
	unsigned int replace_set;
};

#define klp_for_each_object_static(patch, obj) \
	for (obj = (patch)->objs; obj->funcs || obj->name; obj++)
#define klp_for_each_func_static(obj, func) \
	for (func = (obj)->funcs; func->old_name || func->new_func || func->old_sympos; func++)

typedef int (*klp_shadow_ctor_t)(void *obj, void *shadow_data, void *ctor_data);
typedef void (*klp_shadow_dtor_t)(void *obj, void *shadow_data);

__ENGRAFT_BEGIN

/* From the module's init function only. */
int klp_enable_patch(struct klp_patch *patch);

void *klp_shadow_get(void *obj, unsigned long id);
void *klp_shadow_alloc(void *obj, unsigned long id, size_t size, gfp_t gfp_flags,
		       klp_shadow_ctor_t ctor, void *ctor_data);
void *klp_shadow_get_or_alloc(void *obj, unsigned long id, size_t size, gfp_t gfp_flags,
			      klp_shadow_ctor_t ctor, void *ctor_data);
void klp_shadow_free(void *obj, unsigned long id, klp_shadow_dtor_t dtor);
void klp_shadow_free_all(unsigned long id, klp_shadow_dtor_t dtor);

struct klp_state *klp_get_state(struct klp_patch *patch, unsigned long id);
struct klp_state *klp_get_prev_state(unsigned long id);

__ENGRAFT_END

/*
 * Callbacks for a module that `engraft build` makes, in a file given with --hook:
 *
 *	static int check_table(struct klp_object *obj) { ... }
 *	KLP_PRE_PATCH_CALLBACK(check_table);
 */
#define KLP_PRE_PATCH_CALLBACK(function) \
	int engraft_pre_patch(struct klp_object *obj) \
	{ \
		return function(obj); \
	} \
	extern int __UNIQUE_ID(engraft_end)
#define KLP_POST_PATCH_CALLBACK(function) __KLP_CALLBACK(engraft_post_patch, function)
#define KLP_PRE_UNPATCH_CALLBACK(function) __KLP_CALLBACK(engraft_pre_unpatch, function)
#define KLP_POST_UNPATCH_CALLBACK(function) __KLP_CALLBACK(engraft_post_unpatch, function)
#define __KLP_CALLBACK(name, function) \
	void name(struct klp_object *obj) \
	{ \
		function(obj); \
	} \
	extern int __UNIQUE_ID(engraft_end)

__ENGRAFT_BEGIN
extern struct klp_state engraft_states[];
int engraft_pre_patch(struct klp_object *obj);
void engraft_post_patch(struct klp_object *obj);
void engraft_pre_unpatch(struct klp_object *obj);
void engraft_post_unpatch(struct klp_object *obj);
__ENGRAFT_END

/*
 * States for a module that `engraft build` makes, in a file given with --hook:
 *
 *	KLP_STATES = { { .id = 1, .callbacks = { .pre_patch = prepare } }, { } };
 */
#define KLP_STATES struct klp_state engraft_states[]

/*
 * Gives a symbol of the target, possibly a local one, a name to be declared and used by:
 *
 *	KLP_SYM(parse_header, "vmlinux", "parse_header", 2);
 *	extern int parse_header(const char *line);
 *
 * object: "vmlinux" for the main executable, else a library's name. position: which of
 * several symbols of that name, from 1; 0: there is only one. In C++ the declaration must be
 * extern "C".
 */
#define KLP_SYM(identifier, object, name, position) \
	__asm__(".set " #identifier ", \".klp.sym." object "." name "," #position "\"")

#endif
