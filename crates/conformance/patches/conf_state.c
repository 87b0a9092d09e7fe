// Changes a variable of the target and keeps its old value in a state, which it takes over from an
// older patch that has it. Built under several names.
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt
#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/printk.h>
#include <linux/slab.h>

#define LEVEL_STATE 1
#define LOUD 15

extern int console_printk[];

/* Of the state. */
static int version = 1;
module_param(version, int, 0444);

static struct klp_patch patch;

static int keep_level(struct klp_object *obj)
{
	struct klp_state *before = klp_get_prev_state(LEVEL_STATE);
	struct klp_state *state = klp_get_state(&patch, LEVEL_STATE);

	if (before) {
		pr_info("room is there already, of version %u\n", before->version);
		return 0;
	}
	if (!state)
		return -EINVAL;
	state->data = kzalloc(sizeof(int), GFP_KERNEL);
	if (!state->data)
		return -ENOMEM;
	pr_info("room for the level\n");
	return 0;
}

static void raise_level(struct klp_object *obj)
{
	struct klp_state *before = klp_get_prev_state(LEVEL_STATE);
	struct klp_state *state = klp_get_state(&patch, LEVEL_STATE);

	if (before) {
		state->data = before->data;
		before->data = NULL;
		pr_info("level taken over: %d\n", console_printk[0]);
		return;
	}
	*(int *)state->data = console_printk[0];
	console_printk[0] = LOUD;
	pr_info("level raised to %d\n", console_printk[0]);
}

static void lower_level(struct klp_object *obj)
{
	struct klp_state *before = klp_get_prev_state(LEVEL_STATE);
	struct klp_state *state = klp_get_state(&patch, LEVEL_STATE);

	if (before) {
		before->data = state->data;
		pr_info("level handed back\n");
		return;
	}
	console_printk[0] = *(int *)state->data;
	pr_info("level restored\n");
}

static void forget_level(struct klp_object *obj)
{
	struct klp_state *before = klp_get_prev_state(LEVEL_STATE);
	struct klp_state *state = klp_get_state(&patch, LEVEL_STATE);

	if (before) {
		pr_info("room is kept\n");
		return;
	}
	kfree(state->data);
	pr_info("room freed\n");
}

static struct klp_func no_funcs[] = { {} };
static struct klp_object objs[] = {
	{
		.funcs = no_funcs,
		.callbacks = {
			.pre_patch = keep_level,
			.post_patch = raise_level,
			.pre_unpatch = lower_level,
			.post_unpatch = forget_level,
		},
	},
	{}
};
static struct klp_state states[] = { { .id = LEVEL_STATE }, {} };
static struct klp_patch patch = {
	.mod = THIS_MODULE,
	.objs = objs,
	.states = states,
	.replace = true,
};

static int patch_init(void)
{
	states[0].version = version;
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
