/*
 * For implementers of an accelerator: the table of operations behind accel.h, and what every accelerator and vCPU starts
 * with. accel.c checks arguments that are the same for all, then dispatches; a NULL operation is -EOPNOTSUPP.
 */
#pragma once

#include "vm/accel/accel.h"
#include "vm/accel/x86.h"

struct accel_ops {
	enum accel_kind kind;
	const char *name;

	/* config has been checked; *ret is embedded in the implementer's own struct. */
	int (*open)(const struct accel_config *config, struct accel **ret, struct error *err);
	void (*close)(struct accel *accel);

	int (*map)(struct accel *accel, const struct gmem_region *region, struct error *err);
	int (*unmap)(struct accel *accel, const struct gmem_region *region);
	void (*written)(struct accel *accel, gpa_t gpa, uint64_t len);
	int (*dirty_start)(struct accel *accel);
	int (*dirty_stop)(struct accel *accel);
	int (*dirty_fetch)(struct accel *accel, const struct gmem_region *region, uint64_t *bitmap);

	int (*vcpu_new)(struct accel *accel, unsigned index, struct accel_vcpu **ret,
			struct error *err);
	void (*vcpu_free)(struct accel_vcpu *vcpu);
	int (*vcpu_set_boot)(struct accel_vcpu *vcpu, const struct x86_boot_regs *regs,
			     struct error *err);
	enum accel_exit (*vcpu_run)(struct accel_vcpu *vcpu);
	void (*vcpu_kick)(struct accel_vcpu *vcpu); /* async-signal-safe */
	int (*vcpu_settle)(struct accel_vcpu *vcpu);
	int (*vcpu_nmi)(struct accel_vcpu *vcpu);

	int (*irq_line)(struct accel *accel, unsigned gsi, bool level);
	int (*msi)(struct accel *accel, uint64_t addr, uint32_t data);
	int (*irqfd_attach)(struct accel *accel, int fd, uint64_t addr, uint32_t data);
	int (*irqfd_update)(struct accel *accel, int route, uint64_t addr, uint32_t data);
	int (*irqfd_detach)(struct accel *accel, int route);
	int (*doorbell_add)(struct accel *accel, const struct accel_doorbell *bell);
	int (*doorbell_del)(struct accel *accel, const struct accel_doorbell *bell);

	int (*vcpu_get_state)(struct accel_vcpu *vcpu, struct x86_vcpu_state *ret,
			      struct error *err);
	int (*vcpu_set_state)(struct accel_vcpu *vcpu, const struct x86_vcpu_state *state,
			      struct error *err);
	int (*machine_get_state)(struct accel *accel, struct x86_machine_state *ret,
				 struct error *err);
	int (*machine_set_state)(struct accel *accel, const struct x86_machine_state *state,
				 struct error *err);
	int (*paused)(struct accel *accel);
	int (*resume)(struct accel *accel);
	int (*reset)(struct accel *accel, struct error *err);
};

struct accel {
	const struct accel_ops *ops;
	struct accel_config config; /* [const] */
};

struct accel_vcpu {
	struct accel *accel;
	unsigned index;
	char error[320]; /* [vCPU's thread] why accel_vcpu_run() returned ACCEL_EXIT_ERROR */
};

extern const struct accel_ops kvm_accel_ops;
extern const struct accel_ops soft_accel_ops;
extern const struct accel_ops null_accel_ops;

int kvm_probe(struct error *err);
/* As it was found earlier since the host booted, without a probe; else probes and remembers. */
int kvm_probe_once(struct error *err);
/* Does the processor show virtualization extensions? A KVM without them interprets or translates guest kernels. */
bool kvm_host_has_extensions(void);
