/*
 * The software CPU as an accelerator: a machine and its vCPUs come and go. The operations are in the other files of this folder.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "vm/accel/soft/interp/code.h"
#include "vm/accel/soft/irq/irq_int.h"

static void soft_close(struct accel *accel)
{
	struct soft *soft = soft_of(accel);

	soft_irq_close(soft);
	if (soft->jit)
		jit_fini(soft);
	code_fini(soft);
	vec_fini(soft);
	cpuid_fini(soft);
	soft_mem_free(soft);
	free(soft);
}

/* Without a translator everything is interpreted: slow, and otherwise the same. */
static void soft_translate(struct soft *soft)
{
	struct error why = ERROR_INIT;

	if (jit_init(soft, &why) < 0)
		log_warning("%s; guest code is interpreted, which is slow", why.text);
}

static int soft_open(const struct accel_config *config, struct accel **ret, struct error *err)
{
	struct soft *soft = calloc(1, sizeof(*soft));
	int r;

	if (!soft)
		return error_set_errno(err, -ENOMEM, "the software CPU");
	soft->accel.ops = &soft_accel_ops;
	soft->accel.config = *config;
	r = cpuid_init(soft, err);
	if (r == 0)
		r = code_init(soft, err);
	if (r == 0)
		r = vec_init(soft, err);
	if (r == 0)
		r = soft_irq_open(soft, err);
	if (r < 0) {
		soft_close(&soft->accel);
		return r;
	}
	if (!config->interpret)
		soft_translate(soft);
	*ret = &soft->accel;
	return 0;
}

static void soft_vcpu_free(struct accel_vcpu *vcpu)
{
	struct soft_cpu *cpu = soft_cpu_of(vcpu);

	/* The timer thread looks at all there are. */
	pthread_mutex_lock(&cpu->soft->irq->lock);
	if (cpu->soft->cpus[vcpu->index] == cpu)
		cpu->soft->cpus[vcpu->index] = NULL;
	pthread_mutex_unlock(&cpu->soft->irq->lock);
	if (cpu->soft->jit)
		jit_cpu_fini(cpu);
	interp_cpu_fini(cpu);
	cpu_fini(cpu);
	free(cpu->lapic);
	free(cpu);
}

static int soft_vcpu_init(struct soft_cpu *cpu, struct error *err)
{
	const struct accel_config *c = &cpu->soft->accel.config;
	int r = 0;

	cpu->lapic = calloc(1, sizeof(*cpu->lapic));
	if (!cpu->lapic)
		r = -ENOMEM;
	if (r == 0)
		r = cpu_init(cpu);
	if (r == 0)
		r = interp_cpu_init(cpu);
	if (r == 0 && cpu->soft->jit)
		r = jit_cpu_init(cpu);
	if (r < 0)
		return error_set_errno(err, r, "vCPU %u", cpu->base.index);
	cpu->lapic->id = x86_apic_id(cpu->base.index, c->cores, c->threads);
	cpu->lapic->wake_ns = TIME_NEVER;
	cpu->features = cpu->soft->features;
	soft_power_on(cpu);
	/* All counters begin together, with the machine. */
	cpu->tsc_offset = 0 - cpu->soft->irq->base_tsc;
	return 0;
}

static int soft_vcpu_new(struct accel *accel, unsigned index, struct accel_vcpu **ret,
			 struct error *err)
{
	struct soft *soft = soft_of(accel);
	struct soft_cpu *cpu;
	int r;

	if (soft->cpus[index])
		return error_set(err, -EEXIST, "vCPU %u exists", index);
	clock_finish(soft);
	cpu = aligned_alloc(64, (sizeof(*cpu) + 63) / 64 * 64);
	if (!cpu)
		return error_set_errno(err, -ENOMEM, "vCPU %u", index);
	memset(cpu, 0, sizeof(*cpu));
	cpu->soft = soft;
	cpu->base.accel = accel;
	cpu->base.index = index;
	r = soft_vcpu_init(cpu, err);
	if (r < 0) {
		soft_vcpu_free(&cpu->base);
		return r;
	}
	pthread_mutex_lock(&soft->irq->lock);
	soft->cpus[index] = cpu;
	pthread_mutex_unlock(&soft->irq->lock);
	*ret = &cpu->base;
	return 0;
}

const struct accel_ops soft_accel_ops = {
	.kind = ACCEL_SOFT,
	.name = "soft",
	.open = soft_open,
	.close = soft_close,
	.map = soft_map,
	.unmap = soft_unmap,
	.written = soft_written,
	.dirty_start = soft_dirty_start,
	.dirty_stop = soft_dirty_stop,
	.dirty_fetch = soft_dirty_fetch,
	.vcpu_new = soft_vcpu_new,
	.vcpu_free = soft_vcpu_free,
	.vcpu_set_boot = soft_vcpu_set_boot,
	.vcpu_run = soft_vcpu_run,
	.vcpu_kick = soft_vcpu_kick,
	.vcpu_settle = soft_vcpu_settle,
	.vcpu_nmi = soft_vcpu_nmi,
	.irq_line = soft_irq_line,
	.msi = soft_msi,
	.irqfd_attach = soft_irqfd_attach,
	.irqfd_update = soft_irqfd_update,
	.irqfd_detach = soft_irqfd_detach,
	.doorbell_add = soft_doorbell_add,
	.doorbell_del = soft_doorbell_del,
	.vcpu_get_state = soft_vcpu_get_state,
	.vcpu_set_state = soft_vcpu_set_state,
	.machine_get_state = soft_machine_get_state,
	.machine_set_state = soft_machine_set_state,
	.paused = soft_paused,
	.resume = soft_resume,
	.reset = soft_reset,
};
