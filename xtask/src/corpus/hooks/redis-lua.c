/* Scripts of all users share the metatable of strings, and could change it. Interpreters are made
 * at the start and by SCRIPT FLUSH: those that live are protected when the patch comes. */
#include <linux/livepatch.h>
#include <linux/module.h>
#include "../deps/lua/src/lstate.h"
#include "dict.h"

/* The beginnings of the structures by which an interpreter is reached. */
extern struct {
	lua_State *lua;
} lctx;
struct engine_info {
	char *name;
	struct {
		lua_State **context;
	} *engine;
};
extern dict *engines;

void engraft_protect_strings(lua_State *lua, int on)
{
	struct Table *shared = G(lua)->mt[LUA_TSTRING];

	if (shared)
		shared->readonly = on;
}

static void protect_living(int on)
{
	unsigned long i;

	engraft_protect_strings(lctx.lua, on);
	for (i = 0; i < DICTHT_SIZE(engines->ht_size_exp[0]); i++) {
		dictEntry *entry = engines->ht_table[0][i];

		for (; entry; entry = entry->next) {
			struct engine_info *info = dictGetVal(entry);

			engraft_protect_strings(*info->engine->context, on);
		}
	}
}

static void protect(struct klp_object *obj)
{
	protect_living(1);
}
KLP_POST_PATCH_CALLBACK(protect);

static void release(struct klp_object *obj)
{
	protect_living(0);
}
KLP_POST_UNPATCH_CALLBACK(release);
