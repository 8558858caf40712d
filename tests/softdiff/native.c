/*
 * The native side: the case's code is put into a page of its own, all registers are loaded, and the code is jumped to. Behind it a jump leads back; faults and
 * strange branch targets arrive as signals, whose handler takes the registers from its frame.
 *
 * In compatibility mode the selectors are Linux's: 0x23 for code, 0x2b for data, 0x33 for 64-bit code.
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include "softdiff/diff.h"

#define LOW_EXIT (CODE + CODE_SIZE) /* a page with what 32-bit code jumps to */

/* What native_enter() takes and leaves; the assembly knows the layout. */
struct native_regs {
	uint64_t gpr[16];
	uint64_t rflags, rip, gs_base;
	uint64_t host_rsp;
	uint64_t far[2]; /* 32-bit mode: offset and selector */
	uint64_t is_32;
	_Alignas(64) uint8_t fpu[1024];
};

struct native_regs native_regs __attribute__((visibility("hidden")));
void native_enter(void);
extern const char native_exit[], native_escape[];

__asm__(".pushsection .text.native_enter, \"ax\", @progbits\n"
	".globl native_enter, native_exit, native_escape\n"
	".hidden native_enter, native_exit, native_escape\n"
	".type native_enter, @function\n"
	"native_enter:\n"
	"	pushq %rbx\n"
	"	pushq %rbp\n"
	"	pushq %r12\n"
	"	pushq %r13\n"
	"	pushq %r14\n"
	"	pushq %r15\n"
	"	leaq native_regs(%rip), %rbx\n"
	"	movq %rsp, 152(%rbx)\n"
	"	movl $7, %eax\n"
	"	xorl %edx, %edx\n"
	"	xrstor64 192(%rbx)\n"
	"	movq 144(%rbx), %rax\n"
	"	wrgsbase %rax\n"
	"	cmpq $0, 176(%rbx)\n"
	"	jne 1f\n"
	"	pushq 128(%rbx)\n"
	"	popfq\n"
	"	jmp 2f\n"
	"1:	movl $0x2b, %eax\n"
	"	movl %eax, %ds\n"
	"	movl %eax, %es\n"
	"	pushq 128(%rbx)\n"
	"	popfq\n"
	"2:	movq 0(%rbx), %rax\n"
	"	movq 8(%rbx), %rcx\n"
	"	movq 16(%rbx), %rdx\n"
	"	movq 32(%rbx), %rsp\n"
	"	movq 40(%rbx), %rbp\n"
	"	movq 48(%rbx), %rsi\n"
	"	movq 56(%rbx), %rdi\n"
	"	movq 64(%rbx), %r8\n"
	"	movq 72(%rbx), %r9\n"
	"	movq 80(%rbx), %r10\n"
	"	movq 88(%rbx), %r11\n"
	"	movq 96(%rbx), %r12\n"
	"	movq 104(%rbx), %r13\n"
	"	movq 112(%rbx), %r14\n"
	"	movq 120(%rbx), %r15\n"
	"	movq 24(%rbx), %rbx\n"
	/* An untaken form of each: flags must not change any more. */
	"	jmp *native_jump(%rip)\n"
	"native_far:\n"
	"	ljmp *native_regs+160(%rip)\n"
	"native_exit:\n"
	"	movq %rax, native_regs+0(%rip)\n"
	"	movq %rcx, native_regs+8(%rip)\n"
	"	movq %rdx, native_regs+16(%rip)\n"
	"	movq %rbx, native_regs+24(%rip)\n"
	"	movq %rsp, native_regs+32(%rip)\n"
	"	movq %rbp, native_regs+40(%rip)\n"
	"	movq %rsi, native_regs+48(%rip)\n"
	"	movq %rdi, native_regs+56(%rip)\n"
	"	movq %r8, native_regs+64(%rip)\n"
	"	movq %r9, native_regs+72(%rip)\n"
	"	movq %r10, native_regs+80(%rip)\n"
	"	movq %r11, native_regs+88(%rip)\n"
	"	movq %r12, native_regs+96(%rip)\n"
	"	movq %r13, native_regs+104(%rip)\n"
	"	movq %r14, native_regs+112(%rip)\n"
	"	movq %r15, native_regs+120(%rip)\n"
	"	movq native_regs+152(%rip), %rsp\n"
	"	pushfq\n"
	"	popq native_regs+128(%rip)\n"
	"	pushq $0x202\n"
	"	popfq\n"
	"	rdgsbase %rax\n"
	"	movq %rax, native_regs+144(%rip)\n"
	"	movl $7, %eax\n"
	"	xorl %edx, %edx\n"
	"	movq $0, native_regs+192+512(%rip)\n"
	"	xsave64 native_regs+192(%rip)\n"
	"	jmp 3f\n"
	"native_escape:\n"
	"	movq native_regs+152(%rip), %rsp\n"
	"	pushq $0x202\n"
	"	popfq\n"
	"3:	fninit\n"
	"	movl $0x1f80, -8(%rsp)\n"
	"	ldmxcsr -8(%rsp)\n"
	"	vzeroupper\n"
	"	popq %r15\n"
	"	popq %r14\n"
	"	popq %r13\n"
	"	popq %r12\n"
	"	popq %rbp\n"
	"	popq %rbx\n"
	"	ret\n"
	".size native_enter, . - native_enter\n"
	".popsection\n");

_Static_assert(offsetof(struct native_regs, rflags) == 128, "layout");
_Static_assert(offsetof(struct native_regs, gs_base) == 144, "layout");
_Static_assert(offsetof(struct native_regs, host_rsp) == 152, "layout");
_Static_assert(offsetof(struct native_regs, far) == 160, "layout");
_Static_assert(offsetof(struct native_regs, is_32) == 176, "layout");
_Static_assert(offsetof(struct native_regs, fpu) == 192, "layout");

uint64_t native_jump __attribute__((visibility("hidden")));
extern const char native_far[] __attribute__((visibility("hidden")));

static struct sigaction old_fpe;
static uint8_t *window_rw, *code_rw;
static struct diff_outcome *outcome; /* of the case that runs; NULL outside */

/* The registers of a frame. XSTATE_BV says which components are there; the others have their initial values. */
static void take_fpu(const uint8_t *frame, uint8_t *to)
{
	uint64_t present;

	memcpy(&present, frame + 512, 8);
	memcpy(to, frame, 416);
	memcpy(to + 576, frame + 576, 256);
	if (!(present & 1)) {
		memset(to, 0, 24);
		memset(to + 32, 0, 128);
		to[0] = 0x7f;
		to[1] = 3;
	}
	if (!(present & 2))
		memset(to + 160, 0, 256);
	if (!(present & 4))
		memset(to + 576, 0, 256);
}

static void on_signal(int number, siginfo_t *info, void *context)
{
	static const int order[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
				      REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
				      REG_R12, REG_R13, REG_R14, REG_R15};
	ucontext_t *uc = context;
	greg_t *regs = uc->uc_mcontext.gregs;

	if (!outcome) {
		/* The software side has a handler of its own. */
		if (number == SIGFPE && old_fpe.sa_sigaction)
			old_fpe.sa_sigaction(number, info, context);
		else
			signal(number, SIG_DFL);
		return;
	}
	for (unsigned i = 0; i < 16; i++)
		outcome->state.gpr[i] = (uint64_t)regs[order[i]];
	outcome->state.rip = (uint64_t)regs[REG_RIP];
	outcome->state.rflags = (uint64_t)regs[REG_EFL];
	__asm__ volatile("rdgsbase %0" : "=r"(outcome->state.gs_base));
	outcome->vector = (int)regs[REG_TRAPNO];
	outcome->error = (uint32_t)regs[REG_ERR];
	outcome->address = outcome->vector == 14 ? (uint64_t)regs[REG_CR2] : 0;
	take_fpu((const uint8_t *)uc->uc_mcontext.fpregs, outcome->state.fpu);
	regs[REG_RIP] = (greg_t)(uintptr_t)native_escape;
	regs[REG_EFL] = 0x202;
	regs[REG_CSGSFS] = (regs[REG_CSGSFS] & ~0xffffLL) | 0x33;
}

static void *map(uint64_t at, size_t size, int prot, int fd, off_t offset)
{
	int fixed = at ? MAP_FIXED_NOREPLACE : 0;
	void *p = mmap((void *)(uintptr_t)at, size, prot, MAP_SHARED | MAP_POPULATE | fixed, fd,
		       offset);

	return p == MAP_FAILED ? NULL : p;
}

static int install_handlers(void)
{
	static uint8_t stack[65536];
	static const int signals[] = {SIGSEGV, SIGILL, SIGFPE, SIGTRAP, SIGBUS};
	struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_ONSTACK};
	stack_t alternative = {.ss_sp = stack, .ss_size = sizeof(stack)};

	if (sigaltstack(&alternative, NULL) < 0)
		return -errno;
	for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
		if (sigaction(signals[i], &action, signals[i] == SIGFPE ? &old_fpe : NULL) < 0)
			return -errno;
	return 0;
}

int native_init(void)
{
	static const uint8_t low_exit[] = {0xff, 0x25, 0, 0, 0, 0}; /* jmp [rip] */
	size_t window = WINDOW_SIZE + PAGE, code = CODE_SIZE + PAGE;
	uint64_t exit_at = (uintptr_t)native_exit;
	int fd = memfd_create("softdiff", MFD_CLOEXEC);

	if (fd < 0 || ftruncate(fd, (off_t)(window + code)) < 0)
		return -errno;
	if (!map(WINDOW, WINDOW_SIZE, PROT_READ | PROT_WRITE, fd, 0) ||
	    !map(READ_ONLY, PAGE, PROT_READ, fd, WINDOW_SIZE) ||
	    !map(CODE, code, PROT_READ | PROT_EXEC, fd, (off_t)window))
		return -errno;
	window_rw = map(0, window, PROT_READ | PROT_WRITE, fd, 0);
	code_rw = map(0, code, PROT_READ | PROT_WRITE, fd, (off_t)window);
	close(fd);
	if (!window_rw || !code_rw)
		return -ENOMEM;
	memset(code_rw, 0xcc, code);
	memcpy(code_rw + CODE_SIZE, low_exit, sizeof(low_exit));
	memcpy(code_rw + CODE_SIZE + sizeof(low_exit), &exit_at, 8);
	return NATIVE ? install_handlers() : 0;
}

void native_poke(uint64_t linear, const void *from, size_t n)
{
	memcpy(window_rw + (linear - WINDOW), from, n);
}

const uint8_t *native_window(void)
{
	return window_rw;
}

/* The code and the jump behind it; what was there before is INT3 again. */
static void put_code(const struct diff_case *c, uint8_t *at)
{
	unsigned n = c->offset[c->n];

	memcpy(at, c->code, n);
	if (c->mode == INSN_MODE_64) {
		uint64_t exit_at = (uintptr_t)native_exit;

		memcpy(at + n, (const uint8_t[]){0xff, 0x25, 0, 0, 0, 0}, 6);
		memcpy(at + n + 6, &exit_at, 8);
	} else {
		uint32_t low = (uint32_t)LOW_EXIT;

		at[n] = 0xea; /* jmp 0x33:low */
		memcpy(at + n + 1, &low, 4);
		memcpy(at + n + 5, &(uint16_t){0x33}, 2);
	}
}

void native_run(const struct diff_case *c, struct diff_outcome *ret)
{
	uint8_t *at = code_rw + (c->before.rip - CODE);
	struct native_regs *regs = &native_regs;
	unsigned n = c->offset[c->n] + EXIT_MAX;

	put_code(c, at);
	memcpy(regs->gpr, c->before.gpr, sizeof(regs->gpr));
	memcpy(regs->fpu, c->before.fpu, sizeof(regs->fpu));
	regs->rflags = c->before.rflags;
	regs->gs_base = c->before.gs_base;
	regs->is_32 = c->mode != INSN_MODE_64;
	native_jump = c->mode == INSN_MODE_64 ? c->before.rip : (uintptr_t)native_far;
	memcpy(regs->far, &(uint32_t){(uint32_t)c->before.rip}, 4);
	memcpy((uint8_t *)regs->far + 4, &(uint16_t){0x23}, 2);
	ret->vector = -1;
	ret->error = 0;
	ret->address = 0;
	outcome = ret;
	native_enter();
	outcome = NULL;
	if (ret->vector < 0) {
		memcpy(ret->state.gpr, regs->gpr, sizeof(regs->gpr));
		memcpy(ret->state.fpu, regs->fpu, FPU_AREA);
		ret->state.rflags = regs->rflags;
		ret->state.gs_base = regs->gs_base;
		ret->state.rip = c->before.rip + c->offset[c->n];
	}
	memset(at, 0xcc, n);
}
