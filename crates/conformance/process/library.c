// One of the objects that are patched: built as conf_a.so, conf_b.so and conf_c.so.
#include "conf_core.h"
#include "conf_functions.h"

__attribute__((__constructor__)) static void object_init(void)
{
	BEGIN_OBJECT(0);
}

__attribute__((__destructor__)) static void object_exit(void)
{
	END_OBJECT();
}
