#include <stdio.h>

#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>

static int livepatch_total(int pieces, int price)
{
	return pieces * price;
}

/* The program's own variable, although it is static. */
extern int orders;

static void livepatch_report(int amount)
{
	printf("order %d: %d.%02d euro\n", ++orders, amount / 100, amount % 100);
	fflush(stdout);
}

static struct klp_func funcs[] = {
	{
		.old_name = "total",
		.new_func = livepatch_total,
	}, {
		.old_name = "report",
		.new_func = livepatch_report,
	}, { }
};

static struct klp_object objs[] = {
	{
		/* no name: the main executable */
		.funcs = funcs,
	}, { }
};

static struct klp_patch patch = {
	.mod = THIS_MODULE,
	.objs = objs,
	.replace = true,
};

static int shop_fix_init(void)
{
	return klp_enable_patch(&patch);
}

static void shop_fix_exit(void)
{
}

module_init(shop_fix_init);
module_exit(shop_fix_exit);
MODULE_LICENSE("Dual MIT/GPL");
MODULE_INFO(livepatch, "Y");
