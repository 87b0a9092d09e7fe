/* Names of the old length in the cache get buffers of the new one. */
#include <linux/livepatch.h>
#include <linux/module.h>
#include "dnsmasq.h"

extern struct crec **hash_table, *new_chain;
extern union bigname *big_free;
extern int hash_size;

static void move_name(struct crec *entry)
{
	union bigname *longer;

	if (!(entry->flags & F_BIGNAME))
		return;
	longer = calloc(1, 2 * MAXDNAME + 1);
	if (!longer)
		return;
	memcpy(longer, entry->name.bname, sizeof(*entry->name.bname));
	entry->name.bname = longer;
}

static void move_names(struct klp_object *obj)
{
	struct crec *entry;
	int i;

	big_free = NULL;
	for (i = 0; i < hash_size; i++)
		for (entry = hash_table[i]; entry; entry = entry->hash_next)
			move_name(entry);
	for (entry = new_chain; entry; entry = entry->next)
		move_name(entry);
}
KLP_POST_PATCH_CALLBACK(move_names);

MODULE_INFO(handles, "union bigname");
