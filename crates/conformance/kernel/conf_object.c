// One of the objects that are patched: built as conf_a, conf_b and conf_c.
#include <linux/module.h>
#include "conf_core.h"
#include "conf_functions.h"

static int __init object_init(void)
{
	BEGIN_OBJECT(THIS_MODULE);
	return 0;
}

static void __exit object_exit(void)
{
	END_OBJECT();
}

module_init(object_init);
module_exit(object_exit);
MODULE_DESCRIPTION("target of engraft's conformance tests");
MODULE_LICENSE("GPL");
