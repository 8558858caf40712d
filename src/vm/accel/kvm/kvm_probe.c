/*
 * Does KVM run guest kernels at the processor's speed? Some hosts offer a /dev/kvm that interprets privileged guest code
 * instruction by instruction: 1 to 2 million a second, where a processor does more than 100. A stock kernel takes minutes
 * to boot on such a host.
 *
 * The probe runs a loop of some hundred instructions in a throw-away machine of one page and one vCPU, a few times, and
 * judges the best time: noise only ever makes a run longer. All of it takes about a millisecond, and is remembered (kvm_remember.c).
 */
#include <cpuid.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "vm/accel/kvm/kvm_int.h"

#define LOOPS 50
#define INSNS (3ULL * LOOPS)
#define RUNS  3
#define MIN_MIPS                                                                                   \
	20 /* million instructions a second; interpreters do 2, the slowest real host 100 */
#define MAX_NSEC  (INSNS * NSEC_PER_SEC / (MIN_MIPS * 1000000ULL))
#define EXIT_PORT 0x80
#define MAX_EXITS 16 /* entries that are interrupted or end otherwise */
#define PROBE_GPA 0x1000ULL

bool kvm_host_has_extensions(void)
{
	unsigned a, b, c, d;

	if (__get_cpuid(1, &a, &b, &c, &d) && (c & BIT(5))) /* VMX */
		return true;
	return __get_cpuid(0x80000001, &a, &b, &c, &d) && (c & BIT(2)); /* SVM */
}

/* 16-bit code at PROBE_GPA: each round leaves by a port write before and after the loop, so that the time between is the
 * loop's and one exit's. */
static const uint8_t code[] = {
	0xE6, EXIT_PORT,                /* again: out EXIT_PORT, al */
	0xB9, LOOPS & 0xff, LOOPS >> 8, /*   mov cx, LOOPS */
	0x40,                           /* next: inc ax */
	0x49,                           /*   dec cx */
	0x75, 0xFC,                     /*   jnz next */
	0xE6, EXIT_PORT,                /*   out EXIT_PORT, al */
	0xEB, 0xF3,                     /*   jmp again */
};

struct probe {
	int kvm, vm, vcpu;
	void *page;
	struct kvm_run *run;
	size_t run_bytes;
};

static void probe_close(struct probe *p)
{
	if (p->run)
		munmap(p->run, p->run_bytes);
	if (p->page)
		munmap(p->page, 4096);
	cleanup_close(&p->vcpu);
	cleanup_close(&p->vm);
	cleanup_close(&p->kvm);
}

static int probe_map(struct probe *p)
{
	void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct kvm_userspace_memory_region slot = {
		.guest_phys_addr = PROBE_GPA,
		.memory_size = 4096,
		.userspace_addr = (uintptr_t)page,
	};

	if (page == MAP_FAILED)
		return -errno;
	p->page = page;
	memcpy(page, code, sizeof(code));
	return kvm_ioctl(p->vm, KVM_SET_USER_MEMORY_REGION, &slot);
}

static int probe_vcpu(struct probe *p)
{
	struct kvm_regs regs = {.rip = PROBE_GPA, .rflags = 2};
	struct kvm_sregs sregs;
	void *run;
	int r = kvm_ioctl_value(p->kvm, KVM_GET_VCPU_MMAP_SIZE, 0);

	if (r < (int)sizeof(*p->run))
		return -ENOSYS;
	p->run_bytes = (size_t)r;
	p->vcpu = kvm_ioctl_value(p->vm, KVM_CREATE_VCPU, 0);
	if (p->vcpu < 0)
		return p->vcpu;
	run = mmap(NULL, p->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, p->vcpu, 0);
	if (run == MAP_FAILED)
		return -errno;
	p->run = run;
	r = kvm_ioctl(p->vcpu, KVM_GET_SREGS, &sregs);
	if (r < 0)
		return r;
	sregs.cs.base = 0;
	sregs.cs.selector = 0;
	r = kvm_ioctl(p->vcpu, KVM_SET_SREGS, &sregs);
	return r < 0 ? r : kvm_ioctl(p->vcpu, KVM_SET_REGS, &regs);
}

/* Runs to the next port write. */
static int probe_step(struct probe *p)
{
	for (unsigned i = 0; p->run && i < MAX_EXITS; i++) {
		int r = ioctl(p->vcpu, KVM_RUN, 0);

		if (r < 0 && errno != EINTR && errno != EAGAIN)
			return -errno;
		if (r < 0 || p->run->exit_reason == KVM_EXIT_INTR)
			continue;
		return p->run->exit_reason == KVM_EXIT_IO ? 0 : -EIO;
	}
	return -EIO;
}

/* The best time of the loop over several runs, less the best time of an exit alone. */
static int probe_time(struct probe *p, uint64_t *ret_nsec)
{
	uint64_t best_loop = UINT64_MAX, best_exit = UINT64_MAX;

	int r = probe_step(p); /* the first port write */

	for (unsigned i = 0; r == 0 && i < RUNS; i++) {
		uint64_t t0, t1, t2;

		t0 = clock_monotonic_ns();
		r = probe_step(p); /* the loop, up to the second one */
		t1 = clock_monotonic_ns();
		if (r == 0)
			r = probe_step(p); /* the jump back */
		t2 = clock_monotonic_ns();
		best_loop = MIN(best_loop, t1 - t0);
		best_exit = MIN(best_exit, t2 - t1);
		if (best_loop <= best_exit + MAX_NSEC)
			break;
	}
	if (r < 0)
		return r;
	*ret_nsec = best_loop > best_exit ? best_loop - best_exit : 0;
	return 0;
}

static int probe(struct error *err)
{
	_cleanup_(probe_close) struct probe p = {.kvm = -1, .vm = -1, .vcpu = -1};
	uint64_t nsec = 0;
	int r;

	p.kvm = kvm_device_open(err);
	if (p.kvm < 0)
		return p.kvm;
	p.vm = kvm_ioctl_value(p.kvm, KVM_CREATE_VM, 0);
	r = p.vm;
	if (r >= 0)
		r = probe_map(&p);
	if (r >= 0)
		r = probe_vcpu(&p);
	if (r >= 0)
		r = probe_time(&p, &nsec);
	if (r < 0)
		return error_set_errno(err, -ENOSYS,
				       "this host's KVM does not run a test loop of a few "
				       "instructions");
	if (nsec > MAX_NSEC)
		return error_set(err, -ENOSYS,
				 "this host's KVM interprets guest kernels (%.1f million "
				 "instructions a second): a stock kernel would take minutes",
				 (double)INSNS * 1e3 / (double)nsec);
	return 0;
}

int kvm_probe(struct error *err)
{
	struct error why = ERROR_INIT;
	int r = probe(&why);

	kvm_remember(r, why.text);
	return r < 0 ? error_set(err, r, "%s", why.text) : 0;
}

int kvm_probe_once(struct error *err)
{
	int verdict = 0;

	return kvm_recall(&verdict, err) ? verdict : kvm_probe(err);
}
