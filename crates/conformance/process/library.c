// One of the objects that are patched: built as conf_a.so and as conf_b.so.
#include "conf_core.h"
#include "conf_functions.h"

void JOIN(OBJECT, _register)(void);

void JOIN(OBJECT, _register)(void)
{
	REGISTER_FUNCTIONS();
}
