/*
 * What a boot protocol wants in the boot processor: mode, flat segments, general registers. (SDM volume 3, sections 3.4.5
 * and 10.8.5; Linux x86 boot protocol; PVH.)
 */
#include "base/bits.h"
#include "vm/accel/kvm/kvm_int.h"

#define CR0_PE   BIT(0)
#define CR0_ET   BIT(4)
#define CR0_NE   BIT(5)
#define CR0_WP   BIT(16)
#define CR0_PG   BIT(31)
#define CR4_PAE  BIT(5)
#define EFER_LME BIT(8)
#define EFER_LMA BIT(10)

#define TYPE_DATA 3  /* read and write, accessed */
#define TYPE_CODE 11 /* execute and read, accessed */
#define TYPE_TSS  11 /* busy; 32-bit and 64-bit alike */

static struct kvm_segment flat(uint16_t selector, uint8_t type)
{
	return (struct kvm_segment){
		.limit = 0xFFFFFFFF,
		.selector = selector,
		.type = type,
		.present = 1,
		.s = 1,
		.db = 1,
		.g = 1,
	};
}

static struct kvm_segment real(uint16_t selector, uint8_t type)
{
	return (struct kvm_segment){
		.base = (uint64_t)selector << 4,
		.limit = 0xFFFF,
		.selector = selector,
		.type = type,
		.present = 1,
		.s = 1,
	};
}

static void set_real(struct kvm_sregs *s, const struct x86_boot_regs *regs)
{
	s->cs = real(regs->real_cs, TYPE_CODE);
	s->ds = s->es = s->fs = s->gs = s->ss = real(0, TYPE_DATA);
	s->cr0 = CR0_ET;
}

static void set_protected(struct kvm_sregs *s, const struct x86_boot_regs *regs)
{
	s->cs = flat(regs->cs_selector, TYPE_CODE);
	s->ds = s->es = s->fs = s->gs = s->ss = flat(regs->ds_selector, TYPE_DATA);
	s->tr = (struct kvm_segment){
		.selector = regs->tss_selector,
		.limit = 0x67,
		.type = TYPE_TSS,
		.present = 1,
	};
	s->gdt.base = regs->gdt_base;
	s->gdt.limit = regs->gdt_limit;
	s->idt.limit = 0;
	s->cr0 = CR0_PE | CR0_ET;
	if (regs->mode != X86_BOOT_LONG64)
		return;
	s->cs.db = 0;
	s->cs.l = 1;
	s->cr0 |= CR0_NE | CR0_WP | CR0_PG;
	s->cr3 = regs->cr3;
	s->cr4 = CR4_PAE;
	s->efer = EFER_LME | EFER_LMA;
}

int kvm_vcpu_set_boot(struct accel_vcpu *base, const struct x86_boot_regs *regs, struct error *err)
{
	int fd = kvm_vcpu_of(base)->fd, r;
	struct kvm_regs general = {
		.rip = regs->rip,
		.rax = regs->rax,
		.rbx = regs->rbx,
		.rcx = regs->rcx,
		.rdx = regs->rdx,
		.rsi = regs->rsi,
		.rdi = regs->rdi,
		.rsp = regs->rsp,
		.rbp = regs->rbp,
		.rflags = 2, /* bit 1 is always set; interrupts off */
	};
	struct kvm_sregs sregs;

	r = kvm_ioctl(fd, KVM_GET_SREGS, &sregs);
	if (r < 0)
		return error_set_errno(err, r, "KVM_GET_SREGS");
	sregs.cr4 = 0;
	sregs.efer = 0;
	if (regs->mode == X86_BOOT_REAL)
		set_real(&sregs, regs);
	else
		set_protected(&sregs, regs);
	r = kvm_ioctl(fd, KVM_SET_SREGS, &sregs);
	if (r < 0)
		return error_set_errno(err, r, "KVM refuses the boot processor's mode");
	r = kvm_ioctl(fd, KVM_SET_REGS, &general);
	if (r < 0)
		return error_set_errno(err, r, "KVM refuses the boot processor's registers");
	return 0;
}
