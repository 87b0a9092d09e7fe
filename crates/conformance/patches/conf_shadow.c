// Everything that can be done with shadow variables, in the init function of a plain module.
// Pointers are logged by the order in which they are first seen.
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt
#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/printk.h>
#include <linux/slab.h>

#define FIRST 0x1234
#define SECOND 0x1235
#define OBJECTS 3
#define SEEN 32

static char objects[OBJECTS];
static int values[2][OBJECTS];
static const void *seen[SEEN];
static int destructed;

static int number(const void *pointer)
{
	for (int i = 1; i < SEEN; i++) {
		if (!pointer)
			return 0;
		if (!seen[i])
			seen[i] = pointer;
		if (seen[i] == pointer)
			return i;
	}
	return -1;
}

static int ctor(void *obj, void *shadow, void *data)
{
	int **place = shadow;

	if (!data)
		return -EINVAL;
	*place = data;
	pr_info("ctor: PTR%d of PTR%d gets PTR%d\n", number(shadow), number(obj), number(data));
	return 0;
}

static void dtor(void *obj, void *shadow)
{
	pr_info("dtor: PTR%d of PTR%d\n", number(shadow), number(obj));
}

static void count(void *obj, void *shadow)
{
	destructed++;
}

static void get(void *obj, unsigned long id)
{
	int **place = klp_shadow_get(obj, id);

	pr_info("get(PTR%d, %lx) = PTR%d -> PTR%d\n", number(obj), id, number(place),
		place ? number(*place) : 0);
}

static void alloc(void *obj, unsigned long id, void *data)
{
	void *place = klp_shadow_alloc(obj, id, sizeof(int *), GFP_KERNEL, ctor, data);

	pr_info("alloc(PTR%d, %lx) = PTR%d\n", number(obj), id, number(place));
}

static void get_or_alloc(void *obj, unsigned long id, void *data)
{
	void *place = klp_shadow_get_or_alloc(obj, id, sizeof(int *), GFP_KERNEL, ctor, data);

	pr_info("get_or_alloc(PTR%d, %lx) = PTR%d\n", number(obj), id, number(place));
}

static int shadow_init(void)
{
	get(NULL, FIRST);
	get(&objects[0], FIRST);
	for (int i = 0; i < OBJECTS; i++) {
		if (i % 2)
			alloc(&objects[i], FIRST, &values[0][i]);
		else
			get_or_alloc(&objects[i], FIRST, &values[0][i]);
		alloc(&objects[i], SECOND, &values[1][i]);
	}
	for (int i = 0; i < OBJECTS; i++) {
		get(&objects[i], FIRST);
		get(&objects[i], SECOND);
	}
	for (int i = 0; i < OBJECTS; i++)
		get_or_alloc(&objects[i], FIRST, &values[1][i]);
	/* What a constructor refuses is not kept, and what is there is not made again. */
	alloc(&objects[0], FIRST + 2, NULL);
	get(&objects[0], FIRST + 2);
	get_or_alloc(&objects[0], FIRST + 2, NULL);
	for (int i = 0; i < OBJECTS; i++) {
		klp_shadow_free(&objects[i], FIRST, dtor);
		get(&objects[i], FIRST);
		klp_shadow_free(&objects[i], FIRST, dtor);
	}
	for (int i = 0; i < OBJECTS; i++)
		get(&objects[i], SECOND);
	klp_shadow_free_all(SECOND, NULL);
	for (int i = 0; i < OBJECTS; i++)
		get(&objects[i], SECOND);
	/* Which memory is used again is the allocator's choice: no more numbers from here on. */
	for (int i = 0; i < OBJECTS; i++)
		pr_info("again: %d\n", !!klp_shadow_alloc(&objects[i], SECOND, 8, GFP_KERNEL, NULL, NULL));
	klp_shadow_free(&objects[1], SECOND, NULL);
	klp_shadow_free_all(FIRST, dtor);
	for (int i = 0; i < OBJECTS; i++)
		pr_info("there: %d\n", !!klp_shadow_get(&objects[i], SECOND));
	klp_shadow_free(&objects[0], SECOND, count);
	klp_shadow_free_all(SECOND, count);
	pr_info("destructed: %d\n", destructed);
	get(&objects[2], SECOND);
	return 0;
}

static void shadow_exit(void)
{
}

module_init(shadow_init);
module_exit(shadow_exit);
MODULE_DESCRIPTION("shadow variables, for engraft's conformance tests");
MODULE_LICENSE("GPL");
