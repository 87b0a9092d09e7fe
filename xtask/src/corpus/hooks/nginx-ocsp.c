/* The name resolution that an OCSP request waits for: a shadow variable of its context. */
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/slab.h>

#define SV_RESOLUTION 1

void *engraft_ocsp_resolution(void *ctx)
{
	void **resolution = klp_shadow_get(ctx, SV_RESOLUTION);

	return resolution ? *resolution : NULL;
}

/* Contexts are freed when nothing is waited for, so nothing is left behind then. */
void engraft_ocsp_set_resolution(void *ctx, void *resolution)
{
	void **variable;

	if (!resolution) {
		klp_shadow_free(ctx, SV_RESOLUTION, NULL);
		return;
	}
	variable = klp_shadow_get_or_alloc(ctx, SV_RESOLUTION, sizeof(*variable), GFP_KERNEL,
					   NULL, NULL);
	if (variable)
		*variable = resolution;
}

static void forget_resolutions(struct klp_object *obj)
{
	klp_shadow_free_all(SV_RESOLUTION, NULL);
}
KLP_POST_UNPATCH_CALLBACK(forget_resolutions);
