/*
 * The null accelerator: life, memory and state. See null.h.
 */
#include "vm/accel/null/null.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "base/fd.h"
#include "vm/accel/null/null_int.h"

static void null_close(struct accel *accel)
{
	struct null *null = null_of(accel);

	for (size_t i = 0; i < NULL_MAX_REGIONS; i++)
		free(null->regions[i].dirty);
	pthread_mutex_destroy(&null->lock);
	free(null->script.lines);
	free(null);
}

static int null_open(const struct accel_config *config, struct accel **ret, struct error *err)
{
	struct null *null = calloc(1, sizeof(*null));
	int r;

	if (!null)
		return error_set_errno(err, -ENOMEM, "null accelerator");
	null->accel.ops = &null_accel_ops;
	null->accel.config = *config;
	null->accel.config.null_script = NULL; /* the caller's text is not kept */
	pthread_mutex_init(&null->lock, NULL);
	for (size_t i = 0; i < NULL_MAX_ROUTES; i++)
		null->routes[i].fd = -1;
	for (size_t i = 0; i < NULL_MAX_DOORBELLS; i++)
		null->bells[i].fd = -1;
	r = config->null_script ? null_script_parse(config->null_script, &null->script, err) : 0;
	if (r < 0) {
		null_close(&null->accel);
		return r;
	}
	*ret = &null->accel;
	return 0;
}

static int null_map(struct accel *accel, const struct gmem_region *region, struct error *err)
{
	struct null *null = null_of(accel);

	for (size_t i = 0; i < NULL_MAX_REGIONS; i++) {
		if (null->regions[i].region.size != 0)
			continue;
		null->regions[i].region = *region;
		return 0;
	}
	return error_set(err, -ENOSPC, "null accelerator: too many memory regions");
}

static struct null_region *region_find(struct null *null, const struct gmem_region *region)
{
	for (size_t i = 0; i < NULL_MAX_REGIONS; i++)
		if (null->regions[i].region.size != 0 && null->regions[i].region.gpa == region->gpa)
			return &null->regions[i];
	return NULL;
}

static int null_unmap(struct accel *accel, const struct gmem_region *region)
{
	struct null_region *r = region_find(null_of(accel), region);

	if (!r)
		return -ENOENT;
	free(r->dirty);
	*r = (struct null_region){0};
	return 0;
}

static size_t region_words(const struct null_region *r)
{
	return (r->region.size / 4096 + 63) / 64;
}

static int null_dirty_start(struct accel *accel)
{
	struct null *null = null_of(accel);

	LOCK_GUARD(&null->lock);
	for (size_t i = 0; i < NULL_MAX_REGIONS; i++) {
		struct null_region *r = &null->regions[i];

		if (r->region.size == 0 || r->region.readonly)
			continue;
		free(r->dirty);
		r->dirty = calloc(region_words(r), sizeof(uint64_t));
		if (!r->dirty)
			return -ENOMEM;
	}
	return 0;
}

static int null_dirty_stop(struct accel *accel)
{
	struct null *null = null_of(accel);

	LOCK_GUARD(&null->lock);
	for (size_t i = 0; i < NULL_MAX_REGIONS; i++) {
		free(null->regions[i].dirty);
		null->regions[i].dirty = NULL;
	}
	return 0;
}

static int null_dirty_fetch(struct accel *accel, const struct gmem_region *region, uint64_t *bitmap)
{
	struct null *null = null_of(accel);
	struct null_region *r = region_find(null, region);

	LOCK_GUARD(&null->lock);
	if (r && r->region.readonly)
		return 0;
	if (!r || !r->dirty)
		return -ENOENT;
	for (size_t w = 0; w < region_words(r); w++) {
		bitmap[w] |= r->dirty[w];
		r->dirty[w] = 0;
	}
	return 0;
}

static void null_vcpu_free(struct accel_vcpu *base)
{
	struct null_vcpu *vcpu = (struct null_vcpu *)base;

	pthread_mutex_lock(&vcpu->null->lock);
	if (vcpu->null->vcpus[base->index] == vcpu)
		vcpu->null->vcpus[base->index] = NULL;
	pthread_mutex_unlock(&vcpu->null->lock);
	if (vcpu->wake >= 0)
		close(vcpu->wake);
	free(vcpu->state);
	free(vcpu);
}

static int null_vcpu_new(struct accel *accel, unsigned index, struct accel_vcpu **ret,
			 struct error *err)
{
	struct null *null = null_of(accel);
	struct null_vcpu *vcpu;

	if (null->vcpus[index])
		return error_set(err, -EEXIST, "vCPU %u exists", index);
	vcpu = calloc(1, sizeof(*vcpu));
	if (!vcpu)
		return error_set_errno(err, -ENOMEM, "vCPU %u", index);
	vcpu->base.accel = accel;
	vcpu->base.index = index;
	vcpu->null = null;
	vcpu->wake = eventfd_new();
	vcpu->state = calloc(1, sizeof(*vcpu->state));
	if (vcpu->wake < 0 || !vcpu->state) {
		null_vcpu_free(&vcpu->base);
		return error_set_errno(err, -ENOMEM, "vCPU %u", index);
	}
	pthread_mutex_lock(&null->lock);
	null->vcpus[index] = vcpu;
	pthread_mutex_unlock(&null->lock);
	*ret = &vcpu->base;
	return 0;
}

static int null_vcpu_set_boot(struct accel_vcpu *base, const struct x86_boot_regs *regs,
			      struct error *err)
{
	struct null_vcpu *vcpu = (struct null_vcpu *)base;

	vcpu->boot = *regs;
	vcpu->booted = true;
	return 0;
}

const struct x86_boot_regs *null_boot(const struct accel_vcpu *base)
{
	const struct null_vcpu *vcpu = (const struct null_vcpu *)base;

	return vcpu->booted ? &vcpu->boot : NULL;
}

static int null_vcpu_settle(struct accel_vcpu *vcpu)
{
	return 0;
}

static int null_vcpu_nmi(struct accel_vcpu *base)
{
	/* What the message of an NMI looks like. */
	return null_msi(base->accel, 0xFEE00000u | (uint64_t)base->index << 12, 4u << 8);
}

/* The instruction pointer is the next line; all else is what was set last. */
static int null_vcpu_get_state(struct accel_vcpu *base, struct x86_vcpu_state *ret,
			       struct error *err)
{
	struct null_vcpu *vcpu = (struct null_vcpu *)base;

	*ret = *vcpu->state;
	ret->rip = vcpu->at;
	return 0;
}

static int null_vcpu_set_state(struct accel_vcpu *base, const struct x86_vcpu_state *state,
			       struct error *err)
{
	struct null_vcpu *vcpu = (struct null_vcpu *)base;

	if (state->rip > vcpu->null->script.n_lines)
		return error_set(err, -EINVAL, "vCPU %u: the script has no line %llu", base->index,
				 (unsigned long long)state->rip);
	*vcpu->state = *state;
	vcpu->at = state->rip;
	return 0;
}

static int null_machine_get_state(struct accel *accel, struct x86_machine_state *ret,
				  struct error *err)
{
	*ret = null_of(accel)->state;
	return 0;
}

static int null_machine_set_state(struct accel *accel, const struct x86_machine_state *state,
				  struct error *err)
{
	null_of(accel)->state = *state;
	return 0;
}

static int null_reset(struct accel *accel, struct error *err)
{
	struct null *null = null_of(accel);

	for (unsigned i = 0; i < accel->config.n_vcpus; i++) {
		struct null_vcpu *vcpu = null->vcpus[i];

		if (!vcpu)
			continue;
		vcpu->at = 0;
		vcpu->booted = false;
		memset(vcpu->state, 0, sizeof(*vcpu->state));
	}
	memset(&null->state, 0, sizeof(null->state));
	LOCK_GUARD(&null->lock);
	memset(null->lines, 0, sizeof(null->lines));
	return 0;
}

const struct accel_ops null_accel_ops = {
	.kind = ACCEL_NULL,
	.name = "null",
	.open = null_open,
	.close = null_close,
	.map = null_map,
	.unmap = null_unmap,
	.dirty_start = null_dirty_start,
	.dirty_stop = null_dirty_stop,
	.dirty_fetch = null_dirty_fetch,
	.vcpu_new = null_vcpu_new,
	.vcpu_free = null_vcpu_free,
	.vcpu_set_boot = null_vcpu_set_boot,
	.vcpu_run = null_vcpu_run,
	.vcpu_kick = null_vcpu_kick,
	.vcpu_settle = null_vcpu_settle,
	.vcpu_nmi = null_vcpu_nmi,
	.irq_line = null_irq_line,
	.msi = null_msi,
	.irqfd_attach = null_irqfd_attach,
	.irqfd_update = null_irqfd_update,
	.irqfd_detach = null_irqfd_detach,
	.doorbell_add = null_doorbell_add,
	.doorbell_del = null_doorbell_del,
	.vcpu_get_state = null_vcpu_get_state,
	.vcpu_set_state = null_vcpu_set_state,
	.machine_get_state = null_machine_get_state,
	.machine_set_state = null_machine_set_state,
	.reset = null_reset,
};
