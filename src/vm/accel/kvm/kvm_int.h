/* Private to vm/accel/kvm: the one place of the project that sees linux/kvm.h. (Kernel: Documentation/virt/kvm/api.rst.) */
#pragma once

#include <errno.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/ioctl.h>
#include <sys/types.h>

#include "vm/accel/accel_impl.h"

#define KVM_MAX_SLOTS  32
#define KVM_MAX_ROUTES 4096 /* KVM_CAP_IRQ_ROUTING of every kernel we support is at least this */
#define KVM_MAX_CPUID  256u /* entries; the kernel's own limit */

struct kvm_slot {
	struct gmem_region region; /* a copy; size 0: the slot is free */
	uint64_t *log;             /* one bit a page, once dirty tracking was on */
};

/* What of the optional capabilities this kernel has. [const after open] */
struct kvm_caps {
	bool any_length_doorbell;
	bool readonly_memory;
	bool msr_filter;
	bool x2apic_32bit;
	bool tsc_deadline;
	bool tsc_offset;
	bool triple_fault_event;
	bool exception_payload;
	bool sregs2;
	bool manual_protect;
	bool kvmclock_ctrl;
	bool pmu_disable;
	bool smm;
	bool tsc_scaling;
	int xsave_bytes;
	int routes;
	int slots;
};

struct kvm_vcpu;
struct kvm_power_on;

/* An MSI that an eventfd or nothing is bound to. */
struct kvm_route {
	uint64_t addr;
	uint32_t data;
	int fd; /* -1: the entry is free */
};

struct kvm {
	struct accel accel;
	int kvm_fd;
	int vm_fd;
	size_t run_bytes;
	struct kvm_caps caps;
	struct kvm_vcpu *vcpus[ACCEL_MAX_VCPUS];

	struct kvm_slot slots[KVM_MAX_SLOTS];
	bool logging;        /* dirty tracking is on */
	bool manual_protect; /* KVM_CLEAR_DIRTY_LOG works */

	struct kvm_cpuid2 *cpuid; /* the machine's, before what differs by vCPU */
	uint8_t phys_bits;        /* of a guest-physical address */
	uint32_t tsc_khz;
	uint32_t features[X86_N_FEATURES];

	struct kvm_msr_list *msr_list; /* what is saved; entries this kernel refuses are dropped */
	struct kvm_power_on *power_on; /* vCPU 0 and the controllers before the first instruction */

	/* While the guest's clocks stand still: kvm_clock.c. A vCPU's own part is in struct kvm_vcpu. */
	bool frozen;
	uint64_t clock_ns;

	pthread_mutex_t route_lock; /* routes, table */
	struct kvm_route *routes;   /* [route_lock] */
	unsigned n_routes; /* [route_lock] entries ever used; GSI of route i is X86_N_GSIS + i */
	struct kvm_irq_routing *table; /* [route_lock] scratch for KVM_SET_GSI_ROUTING */
	unsigned table_room;
};

struct kvm_vcpu {
	struct accel_vcpu base;
	struct kvm *kvm;
	int fd;
	struct kvm_run *run;
	uint32_t apic_id;
	atomic_bool kicked;
	_Atomic(pid_t) tid;    /* of the thread inside kvm_vcpu_run(), or 0 */
	bool thread_ready;     /* [vCPU's thread] the kick signal is unblocked */
	uint64_t tsc;          /* while frozen */
	uint64_t tsc_deadline; /* while frozen; 0: not armed */
};

static inline struct kvm *kvm_of(struct accel *accel)
{
	return (struct kvm *)accel;
}

static inline struct kvm_vcpu *kvm_vcpu_of(struct accel_vcpu *vcpu)
{
	return (struct kvm_vcpu *)vcpu;
}

/* An ioctl that returns its result or a negative errno; interrupted ones are repeated. Not for KVM_RUN. */
static inline int kvm_ioctl(int fd, unsigned long request, const void *arg)
{
	int r;

	do
		r = ioctl(fd, request, arg);
	while (r < 0 && errno == EINTR);
	return r < 0 ? -errno : r;
}

static inline int kvm_ioctl_value(int fd, unsigned long request, unsigned long value)
{
	int r;

	do
		r = ioctl(fd, request, value);
	while (r < 0 && errno == EINTR);
	return r < 0 ? -errno : r;
}

/* kvm_open.c: the descriptor of /dev/kvm, or a negative errno and what the user can do about it. */
int kvm_device_open(struct error *err);
int kvm_enable_cap(int fd, uint32_t cap, uint64_t arg0);

/* kvm_remember.c: the probe's verdict, 0 or -ENOSYS, since the host booted. */
bool kvm_recall(int *ret_verdict, struct error *err);
void kvm_remember(int verdict, const char *why);

/* kvm_mem.c */
int kvm_map(struct accel *accel, const struct gmem_region *region, struct error *err);
int kvm_unmap(struct accel *accel, const struct gmem_region *region);
void kvm_mem_free(struct kvm *kvm);
/* The slot of the region at region->gpa, or -ENOENT. */
int kvm_slot_find(const struct kvm *kvm, const struct gmem_region *region);
int kvm_slot_set(const struct kvm *kvm, unsigned id, const struct gmem_region *region,
		 bool present);

/* kvm_dirty.c */
int kvm_dirty_start(struct accel *accel);
int kvm_dirty_stop(struct accel *accel);
int kvm_dirty_fetch(struct accel *accel, const struct gmem_region *region, uint64_t *bitmap);

/* kvm_vcpu.c */
int kvm_vcpu_new(struct accel *accel, unsigned index, struct accel_vcpu **ret, struct error *err);
void kvm_vcpu_free(struct accel_vcpu *vcpu);

/* kvm_run.c */
enum accel_exit kvm_vcpu_run(struct accel_vcpu *vcpu);
void kvm_vcpu_kick(struct accel_vcpu *vcpu);
int kvm_vcpu_settle(struct accel_vcpu *vcpu);
/* Installs the handler of the kick signal; once a process suffices, more often is harmless. */
int kvm_kick_init(void);

/* kvm_exit.c: what KVM_RUN came back with. Returns whether to go on; otherwise *ret says why not. */
bool kvm_exit_handle(struct kvm_vcpu *vcpu, enum accel_exit *ret);

/* kvm_cpuid.c: the machine's table at open, a vCPU's own at its creation. */
int kvm_cpuid_load(struct kvm *kvm, struct error *err);
int kvm_cpuid_finish(struct kvm *kvm, struct kvm_vcpu *vcpu);
int kvm_cpuid_set(struct kvm_vcpu *vcpu, struct error *err);

/* kvm_msr.c */
int kvm_msr_filter(struct kvm *kvm);
int kvm_msr_init(struct kvm_vcpu *vcpu);
/* May a guest reach it at all? */
bool kvm_msr_allowed(uint32_t index);
int kvm_msr_read(const struct kvm_vcpu *vcpu, uint32_t index, uint64_t *ret);
int kvm_msr_write(const struct kvm_vcpu *vcpu, uint32_t index, uint64_t value);

/* kvm_msr_state.c: all that are part of a vCPU's state. */
int kvm_msrs_get(struct kvm_vcpu *vcpu, struct x86_vcpu_state *ret, struct error *err);
int kvm_msrs_set(struct kvm_vcpu *vcpu, const struct x86_vcpu_state *state, struct error *err);

/* kvm_regs.c: everything else of it. */
int kvm_regs_get(struct kvm_vcpu *vcpu, struct x86_vcpu_state *ret, struct error *err);
int kvm_regs_set(struct kvm_vcpu *vcpu, const struct x86_vcpu_state *state, struct error *err);
int kvm_fpu_get(struct kvm_vcpu *vcpu, struct x86_vcpu_state *ret, struct error *err);
int kvm_fpu_set(struct kvm_vcpu *vcpu, const struct x86_vcpu_state *state, struct error *err);
int kvm_events_get(struct kvm_vcpu *vcpu, struct x86_vcpu_state *ret, struct error *err);
int kvm_events_set(struct kvm_vcpu *vcpu, const struct x86_vcpu_state *state, struct error *err);

/* kvm_state.c */
int kvm_vcpu_get_state(struct accel_vcpu *vcpu, struct x86_vcpu_state *ret, struct error *err);
int kvm_vcpu_set_state(struct accel_vcpu *vcpu, const struct x86_vcpu_state *state,
		       struct error *err);
/* Notes the power-on state; vCPU 0 is new. */
int kvm_power_on_note(struct kvm_vcpu *vcpu, struct error *err);
int kvm_reset(struct accel *accel, struct error *err);

/* kvm_machine.c */
int kvm_machine_get_state(struct accel *accel, struct x86_machine_state *ret, struct error *err);
int kvm_machine_set_state(struct accel *accel, const struct x86_machine_state *state,
			  struct error *err);
/* Drops ticks of the 8254 that piled up while the guest stood still. */
int kvm_pit_forget_ticks(struct kvm *kvm);

/* kvm_clock.c: the clocks stand still from freeze to resume. */
int kvm_clock_freeze(struct kvm *kvm, struct error *err);
int kvm_vcpu_clock(const struct kvm_vcpu *vcpu, uint64_t *ret_tsc, uint64_t *ret_deadline);
int kvm_paused(struct accel *accel);
int kvm_resume(struct accel *accel);

/* kvm_irq.c */
int kvm_irq_open(struct kvm *kvm, struct error *err);
void kvm_irq_close(struct kvm *kvm);
int kvm_irq_line(struct accel *accel, unsigned gsi, bool level);
int kvm_msi(struct accel *accel, uint64_t addr, uint32_t data);
int kvm_irqfd_attach(struct accel *accel, int fd, uint64_t addr, uint32_t data);
int kvm_irqfd_update(struct accel *accel, int route, uint64_t addr, uint32_t data);
int kvm_irqfd_detach(struct accel *accel, int route);
int kvm_vcpu_nmi(struct accel_vcpu *vcpu);

/* kvm_doorbell.c */
int kvm_doorbell_add(struct accel *accel, const struct accel_doorbell *bell);
int kvm_doorbell_del(struct accel *accel, const struct accel_doorbell *bell);

/* kvm_x86_boot.c */
int kvm_vcpu_set_boot(struct accel_vcpu *vcpu, const struct x86_boot_regs *regs, struct error *err);
