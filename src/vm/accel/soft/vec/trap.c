/*
 * Thunks under a guest's MXCSR that leaves exceptions unmasked. What an unmasked exception does differs from the masked one in more than the fault (Intel SDM
 * volume 1, section 11.5.2: order of detection, underflow of exact results), so the instruction is let run into it: the host's SIGFPE handler finds
 * by the return address on the stack that a thunk was running, and leaves the thunk before it has stored anything.
 *
 * The handler is the process's, installed while a software CPU exists. Any other SIGFPE gets the default action: the process ends.
 */
#include <errno.h>
#include <signal.h>
#include <ucontext.h>

#include "vm/accel/soft/vec/vec_int.h"

/*
 * uint64_t vec_trap_enter(thunk, args, status, gpr, mxcsr): calls thunk(args[0..3], status, gpr) under *mxcsr, and stores what it is afterwards. Returns 0, or 1
 * when the handler has come by way of vec_trap_fault. Only thunks run in between: they touch no callee-saved registers.
 */
uint64_t vec_trap_enter(vec_thunk thunk, void *const args[4], uint16_t *status, uint64_t *gpr,
			uint32_t *mxcsr);
extern const char vec_trap_return[];
extern const char vec_trap_fault[];

__asm__(".pushsection .text.vec_trap, \"ax\", @progbits\n"
	".globl vec_trap_enter, vec_trap_return, vec_trap_fault\n"
	".hidden vec_trap_enter, vec_trap_return, vec_trap_fault\n"
	".type vec_trap_enter, @function\n"
	"vec_trap_enter:\n"
	"	.cfi_startproc\n"
	"	endbr64\n"
	"	pushq %rbx\n"
	"	.cfi_def_cfa_offset 16\n"
	"	.cfi_offset rbx, -16\n"
	"	subq $16, %rsp\n"
	"	.cfi_def_cfa_offset 32\n"
	"	movq %r8, %rbx\n"
	"	stmxcsr (%rsp)\n"
	"	movq %rdi, %rax\n"
	"	movq %rdx, %r8\n"
	"	movq %rcx, %r9\n"
	"	movq %rsi, %r10\n"
	"	movq (%r10), %rdi\n"
	"	movq 8(%r10), %rsi\n"
	"	movq 16(%r10), %rdx\n"
	"	movq 24(%r10), %rcx\n"
	"	ldmxcsr (%rbx)\n"
	"	call *%rax\n"
	"vec_trap_return:\n"
	"	xorl %eax, %eax\n"
	"1:	stmxcsr (%rbx)\n"
	"	ldmxcsr (%rsp)\n"
	"	addq $16, %rsp\n"
	"	.cfi_def_cfa_offset 16\n"
	"	popq %rbx\n"
	"	.cfi_def_cfa_offset 8\n"
	"	ret\n"
	"	.cfi_def_cfa_offset 32\n"
	"vec_trap_fault:\n"
	"	movl $1, %eax\n"
	"	jmp 1b\n"
	"	.cfi_endproc\n"
	".size vec_trap_enter, . - vec_trap_enter\n"
	".popsection\n");

static void on_fpe(int signal_number, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;
	greg_t *regs = uc->uc_mcontext.gregs;

	if (info->si_code > 0 &&
	    *(const uint64_t *)(uintptr_t)regs[REG_RSP] == (uintptr_t)vec_trap_return) {
		regs[REG_RSP] += 8;
		regs[REG_RIP] = (greg_t)(uintptr_t)vec_trap_fault;
		return;
	}
	/* Returns to the instruction, or the sender's next one comes: then it ends the process. */
	signal(signal_number, SIG_DFL);
	if (info->si_code <= 0)
		raise(signal_number);
}

int vec_trap_install(struct error *err)
{
	struct sigaction action = {.sa_sigaction = on_fpe,
				   .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART};

	sigemptyset(&action.sa_mask);
	if (sigaction(SIGFPE, &action, NULL) < 0)
		return error_set_errno(err, -errno, "the handler of floating-point exceptions");
	return 0;
}

bool vec_trap_call(vec_thunk thunk, void *const args[4], struct soft_cpu *cpu, uint32_t *mxcsr)
{
	sigset_t fpe, old;
	bool raised;

	/* A blocked signal of this kind would end the process. */
	sigemptyset(&fpe);
	sigaddset(&fpe, SIGFPE);
	pthread_sigmask(SIG_UNBLOCK, &fpe, &old);
	raised = vec_trap_enter(thunk, args, &cpu->status, cpu->gpr, mxcsr);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return raised;
}
