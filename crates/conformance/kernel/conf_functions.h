/* The functions of an object, OBJECT being its letter: version 1 of each. */
#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
#define TEXT_(a) #a
#define TEXT(a) TEXT_(a)

/* A call as the last thing that a function does would leave no frame of it. */
#define VERSION(name, version) \
	__attribute__((__noinline__, __noipa__)) int name(int thread) \
	{ \
		int result = conf_body(thread, version); \
		__asm__ volatile("" : : : "memory"); \
		return result; \
	}

int JOIN(OBJECT, 1)(int thread);
int JOIN(OBJECT, 2)(int thread);
VERSION(JOIN(OBJECT, 1), 1)
VERSION(JOIN(OBJECT, 2), 1)

/* What an object does when it comes, and when it goes. It tells which version it calls then. */
#define BEGIN_OBJECT(owner) do { \
	conf_register(TEXT(OBJECT) "1", JOIN(OBJECT, 1), owner); \
	conf_register(TEXT(OBJECT) "2", JOIN(OBJECT, 2), owner); \
	conf_tell(JOIN(OBJECT, 1)(-1)); \
} while (0)
#define END_OBJECT() do { \
	conf_unregister(TEXT(OBJECT) "1"); \
	conf_unregister(TEXT(OBJECT) "2"); \
	conf_tell(JOIN(OBJECT, 1)(-1)); \
} while (0)
