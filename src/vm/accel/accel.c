/*
 * The accelerator seam: chooses an implementation, checks what is the same for all, dispatches.
 */
#include "vm/accel/accel.h"

#include <errno.h>

#include "base/log.h"
#include "vm/accel/accel_impl.h"

static int accel_check(const struct accel_config *config, struct error *err)
{
	uint64_t product = (uint64_t)config->sockets * config->cores * config->threads;
	unsigned max_id;

	if (config->n_vcpus < 1 || config->n_vcpus > ACCEL_MAX_VCPUS)
		return error_set(err, -EINVAL, "a machine has 1 to %d vCPUs, not %u",
				 ACCEL_MAX_VCPUS, config->n_vcpus);
	if (config->sockets > 255 || config->cores > 255 || config->threads > 255 ||
	    product != config->n_vcpus)
		return error_set(
			err, -EINVAL,
			"CPU topology: %u sockets of %u cores of %u threads do not make %u "
			"vCPUs",
			config->sockets, config->cores, config->threads, config->n_vcpus);
	max_id = x86_apic_id(config->n_vcpus - 1, config->cores, config->threads);
	/* 255 is the broadcast address of an 8-bit APIC identifier. */
	if (max_id > 254)
		return error_set(err, -EINVAL,
				 "CPU topology: %u cores of %u threads need APIC identifiers up to "
				 "%u, above 254: use powers of two, or fewer sockets",
				 config->cores, config->threads, max_id);
	return 0;
}

/* Where KVM cannot run guests at speed the software CPU does; which it is, and why, is said once. */
static int accel_open_auto(const struct accel_config *config, struct accel **ret, struct error *err)
{
	struct error why = ERROR_INIT;
	/* Where the processor has virtualization extensions, KVM uses them, and the probe would only cost time. */
	int r = kvm_host_has_extensions() ? 0 : kvm_probe_once(&why);

	if (r == 0)
		r = kvm_accel_ops.open(config, ret, &why);
	if (r == 0)
		return 0;
	log_info("%s; the software CPU runs this machine", why.text);
	return soft_accel_ops.open(config, ret, err);
}

int accel_open(const struct accel_config *config, struct accel **ret, struct error *err)
{
	int r = accel_check(config, err);

	if (r < 0)
		return r;
	switch (config->kind) {
	case ACCEL_AUTO:
		return accel_open_auto(config, ret, err);
	case ACCEL_KVM:
		return kvm_accel_ops.open(config, ret, err);
	case ACCEL_NULL:
		return null_accel_ops.open(config, ret, err);
	case ACCEL_SOFT:
		return soft_accel_ops.open(config, ret, err);
	}
	return error_set(err, -EINVAL, "unknown accelerator");
}

void accel_close(struct accel *accel)
{
	if (accel)
		accel->ops->close(accel);
}

enum accel_kind accel_kind_of(const struct accel *accel)
{
	return accel->ops->kind;
}

const char *accel_name(const struct accel *accel)
{
	return accel->ops->name;
}

int accel_probe_kvm(struct error *err)
{
	return kvm_probe(err);
}

int accel_map(struct accel *accel, const struct gmem_region *region, struct error *err)
{
	return accel->ops->map(accel, region, err);
}

bool accel_sees_writes(const struct accel *accel)
{
	return accel->ops->written == NULL;
}

void accel_written(struct accel *accel, gpa_t gpa, uint64_t len)
{
	if (accel->ops->written)
		accel->ops->written(accel, gpa, len);
}

int accel_unmap(struct accel *accel, const struct gmem_region *region)
{
	return accel->ops->unmap(accel, region);
}

int accel_dirty_start(struct accel *accel)
{
	return accel->ops->dirty_start ? accel->ops->dirty_start(accel) : -EOPNOTSUPP;
}

int accel_dirty_stop(struct accel *accel)
{
	return accel->ops->dirty_stop ? accel->ops->dirty_stop(accel) : -EOPNOTSUPP;
}

int accel_dirty_fetch(struct accel *accel, const struct gmem_region *region, uint64_t *bitmap)
{
	return accel->ops->dirty_fetch ? accel->ops->dirty_fetch(accel, region, bitmap)
				       : -EOPNOTSUPP;
}

int accel_vcpu_new(struct accel *accel, unsigned index, struct accel_vcpu **ret, struct error *err)
{
	if (index >= accel->config.n_vcpus)
		return error_set(err, -EINVAL, "vCPU %u of a machine with %u", index,
				 accel->config.n_vcpus);
	return accel->ops->vcpu_new(accel, index, ret, err);
}

void accel_vcpu_free(struct accel_vcpu *vcpu)
{
	if (vcpu)
		vcpu->accel->ops->vcpu_free(vcpu);
}

int accel_vcpu_set_boot(struct accel_vcpu *vcpu, const struct x86_boot_regs *regs,
			struct error *err)
{
	return vcpu->accel->ops->vcpu_set_boot(vcpu, regs, err);
}

enum accel_exit accel_vcpu_run(struct accel_vcpu *vcpu)
{
	return vcpu->accel->ops->vcpu_run(vcpu);
}

void accel_vcpu_kick(struct accel_vcpu *vcpu)
{
	vcpu->accel->ops->vcpu_kick(vcpu);
}

int accel_vcpu_settle(struct accel_vcpu *vcpu)
{
	return vcpu->accel->ops->vcpu_settle(vcpu);
}

const char *accel_vcpu_error(const struct accel_vcpu *vcpu)
{
	return vcpu->error;
}

int accel_vcpu_nmi(struct accel_vcpu *vcpu)
{
	return vcpu->accel->ops->vcpu_nmi(vcpu);
}

int accel_irq_line(struct accel *accel, unsigned gsi, bool level)
{
	if (gsi >= X86_N_GSIS)
		return -EINVAL;
	return accel->ops->irq_line(accel, gsi, level);
}

int accel_msi(struct accel *accel, uint64_t addr, uint32_t data)
{
	return accel->ops->msi(accel, addr, data);
}

int accel_irqfd_attach(struct accel *accel, int fd, uint64_t addr, uint32_t data)
{
	return accel->ops->irqfd_attach(accel, fd, addr, data);
}

int accel_irqfd_update(struct accel *accel, int route, uint64_t addr, uint32_t data)
{
	return accel->ops->irqfd_update(accel, route, addr, data);
}

int accel_irqfd_detach(struct accel *accel, int route)
{
	return accel->ops->irqfd_detach(accel, route);
}

static bool doorbell_valid(const struct accel_doorbell *bell)
{
	bool size_known = bell->size == 0 || bell->size == 1 || bell->size == 2 ||
			  bell->size == 4 || (bell->size == 8 && !bell->is_pio);

	/* Matching a value needs to know how wide it is. */
	return size_known && (!bell->match || bell->size != 0) &&
	       bell->addr + bell->size >= bell->addr && (!bell->is_pio || bell->addr <= UINT16_MAX);
}

int accel_doorbell_add(struct accel *accel, const struct accel_doorbell *bell)
{
	return doorbell_valid(bell) ? accel->ops->doorbell_add(accel, bell) : -EINVAL;
}

int accel_doorbell_del(struct accel *accel, const struct accel_doorbell *bell)
{
	return doorbell_valid(bell) ? accel->ops->doorbell_del(accel, bell) : -EINVAL;
}

static int not_supported(const struct accel *accel, const char *what, struct error *err)
{
	return error_set(err, -EOPNOTSUPP, "accelerator '%s' cannot %s", accel->ops->name, what);
}

int accel_vcpu_get_state(struct accel_vcpu *vcpu, struct x86_vcpu_state *ret, struct error *err)
{
	if (!vcpu->accel->ops->vcpu_get_state)
		return not_supported(vcpu->accel, "save a vCPU", err);
	return vcpu->accel->ops->vcpu_get_state(vcpu, ret, err);
}

int accel_vcpu_set_state(struct accel_vcpu *vcpu, const struct x86_vcpu_state *state,
			 struct error *err)
{
	if (!vcpu->accel->ops->vcpu_set_state)
		return not_supported(vcpu->accel, "restore a vCPU", err);
	return vcpu->accel->ops->vcpu_set_state(vcpu, state, err);
}

int accel_machine_get_state(struct accel *accel, struct x86_machine_state *ret, struct error *err)
{
	if (!accel->ops->machine_get_state)
		return not_supported(accel, "save interrupt controllers", err);
	return accel->ops->machine_get_state(accel, ret, err);
}

int accel_machine_set_state(struct accel *accel, const struct x86_machine_state *state,
			    struct error *err)
{
	if (!accel->ops->machine_set_state)
		return not_supported(accel, "restore interrupt controllers", err);
	return accel->ops->machine_set_state(accel, state, err);
}

int accel_paused(struct accel *accel)
{
	return accel->ops->paused ? accel->ops->paused(accel) : 0;
}

int accel_resume(struct accel *accel)
{
	return accel->ops->resume ? accel->ops->resume(accel) : 0;
}

int accel_reset(struct accel *accel, struct error *err)
{
	if (!accel->ops->reset)
		return not_supported(accel, "reset", err);
	return accel->ops->reset(accel, err);
}
