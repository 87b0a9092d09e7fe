#include <linux/livepatch.h>
#include <linux/module.h>
#include <stdio.h>

/* The program's own variable. */
extern int limit;

static void livepatch_report(int level)
{
	printf("level %d of %d liters\n", level, limit);
	fflush(stdout);
}

static struct klp_func funcs[] = {
	{
		.old_name = "report",
		.new_func = livepatch_report,
	}, { }
};

static struct klp_object objs[] = {
	{
		.funcs = funcs,
	}, { }
};

static struct klp_patch patch = {
	.mod = THIS_MODULE,
	.objs = objs,
	.replace = true,
};

static int tank_fix_init(void)
{
	return klp_enable_patch(&patch);
}

static void tank_fix_exit(void)
{
}

module_init(tank_fix_init);
module_exit(tank_fix_exit);
MODULE_LICENSE("Dual MIT/GPL");
MODULE_INFO(livepatch, "Y");
