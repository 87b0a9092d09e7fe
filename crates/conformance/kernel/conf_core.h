/* What the parts of the target share; the process has the same functions. */
#ifndef CONF_CORE_H
#define CONF_CORE_H

typedef int conf_function(int thread);

extern void conf_register(const char *name, conf_function *function);
extern int conf_body(int thread, int version);

#endif
