// A livepatch that is what its parameters say, built under several names.
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt
#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/string.h>

extern int conf_body(int thread, int version);

/* What its functions say they are of. */
static int version = 2;
module_param(version, int, 0644);
static int replace;
module_param(replace, int, 0444);
/* Bits: a1, a2, b1, b2, c1, c2. */
static int functions;
module_param(functions, int, 0444);
/* Bits: vmlinux, conf_a, conf_b, conf_c. With callbacks, these objects are there in any case. */
static int objects;
module_param(objects, int, 0444);
/* Bits: pre_patch, post_patch, pre_unpatch, post_unpatch. */
static int callbacks;
module_param(callbacks, int, 0444);
/* What pre_patch returns for the object of that index. */
static int pre_patch_ret;
module_param(pre_patch_ret, int, 0644);
static int fails_for;
module_param(fails_for, int, 0444);
/* Versions of the states 1 and 2, 0 for none. */
static int state1, state2;
module_param(state1, int, 0444);
module_param(state2, int, 0444);

#define NEW(name) \
	static __attribute__((__noinline__)) int name(int thread) \
	{ \
		int result = conf_body(thread, version); \
		__asm__ volatile("" : : : "memory"); \
		return result; \
	}
NEW(new_a1)
NEW(new_a2)
NEW(new_b1)
NEW(new_b2)
NEW(new_c1)
NEW(new_c2)

#define OBJECTS 4
static const char *const object_names[OBJECTS] = { NULL, "conf_a", "conf_b", "conf_c" };
static const struct { int object; const char *name; void *function; } known[] = {
	{ 1, "a1", new_a1 }, { 1, "a2", new_a2 }, { 2, "b1", new_b1 },
	{ 2, "b2", new_b2 }, { 3, "c1", new_c1 }, { 3, "c2", new_c2 },
};
#define FUNCTIONS (sizeof(known) / sizeof(known[0]))

static struct klp_func funcs[OBJECTS][3];
static struct klp_object objs[OBJECTS + 1];
static struct klp_state states[3];
static struct klp_patch patch = { .mod = THIS_MODULE, .objs = objs };

static const char *const module_states[] = {
	[MODULE_STATE_LIVE] = "live",
	[MODULE_STATE_COMING] = "coming",
	[MODULE_STATE_GOING] = "going",
	[MODULE_STATE_UNFORMED] = "unformed",
};

static void say(const char *callback, struct klp_object *obj)
{
	if (obj->mod)
		pr_info("%s: %s -> %s\n", callback, obj->mod->name, module_states[obj->mod->state]);
	else
		pr_info("%s: %s\n", callback, obj->name ? obj->name : "vmlinux");
}

/* What the states of the patches before say, as a callback sees it. */
static void say_states(void)
{
	for (unsigned long id = 1; id <= 2; id++) {
		struct klp_state *own = klp_get_state(&patch, id);
		struct klp_state *before = klp_get_prev_state(id);

		if (own || before)
			pr_info("state %lu: %u after %u\n", id, own ? own->version : 0,
				before ? before->version : 0);
	}
}

/* An object that comes or goes does so outside any transition, most of the time. */
static bool in_transition(struct klp_object *obj)
{
	return !obj->mod || obj->mod->state == MODULE_STATE_LIVE;
}

static int pre_patch(struct klp_object *obj)
{
	say("pre_patch", obj);
	if (in_transition(obj))
		say_states();
	return obj->name == object_names[fails_for] ? pre_patch_ret : 0;
}

static void post_patch(struct klp_object *obj)
{
	say("post_patch", obj);
	if (in_transition(obj))
		say_states();
}

static void pre_unpatch(struct klp_object *obj)
{
	say("pre_unpatch", obj);
}

static void post_unpatch(struct klp_object *obj)
{
	say("post_unpatch", obj);
}

static int patch_init(void)
{
	int count[OBJECTS] = { 0 }, used = 0, stated = 0;
	int versions[2] = { state1, state2 };

	for (int i = 0; i < (int)FUNCTIONS; i++)
		if (functions & 1 << i) {
			struct klp_func *func = &funcs[known[i].object][count[known[i].object]++];

			func->old_name = known[i].name;
			func->new_func = known[i].function;
		}
	for (int i = 0; i < OBJECTS; i++) {
		struct klp_object *obj = &objs[used];

		if (!count[i] && !(objects & 1 << i && callbacks))
			continue;
		used++;
		obj->name = object_names[i];
		obj->funcs = funcs[i];
		obj->callbacks.pre_patch = callbacks & 1 ? pre_patch : NULL;
		obj->callbacks.post_patch = callbacks & 2 ? post_patch : NULL;
		obj->callbacks.pre_unpatch = callbacks & 4 ? pre_unpatch : NULL;
		obj->callbacks.post_unpatch = callbacks & 8 ? post_unpatch : NULL;
	}
	/* What there is nothing to do for is a deliberate difference. */
	if (!used)
		return -EINVAL;
	for (int i = 0; i < 2; i++)
		if (versions[i]) {
			states[stated].id = i + 1;
			states[stated++].version = versions[i];
		}
	patch.states = stated ? states : NULL;
	patch.replace = replace;
	return klp_enable_patch(&patch);
}

static void patch_exit(void)
{
}

module_init(patch_init);
module_exit(patch_exit);
MODULE_DESCRIPTION("livepatch of engraft's conformance tests");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
