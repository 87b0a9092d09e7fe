/* What the parts of the target share; the process has the same functions. */
#ifndef CONF_CORE_H
#define CONF_CORE_H

struct module;

typedef int conf_function(int thread);

/* OWNER stays as long as a thread is in the function. */
extern void conf_register(const char *name, conf_function *function, struct module *owner);
extern void conf_unregister(const char *name);
/* The answer to the command that loads or unloads an object. */
extern void conf_tell(int version);
extern int conf_body(int thread, int version);

#endif
