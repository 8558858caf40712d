/*
 * What a handler finds: frames in every mode, stack switches, error codes, flags; and faults on the way to a handler.
 */
#include "unit/test.h"

#include "sys_machine.h"
#include "vm/accel/soft/cpu/cpu_int.h"

static void fault(struct sys_machine *m, uint8_t vector, bool has_error, uint32_t error)
{
	m->cpu->fault = (struct soft_fault){.vector = vector,
					    .has_error = has_error,
					    .error = error,
					    .address = 0x123456};
}

static void test_real(void **state)
{
	struct sys_machine *m = sys_machine_new();
	struct soft_cpu *cpu = m->cpu;

	(void)state;
	cpu->seg[SEG_SS].base = 0x5000;
	cpu->seg[SEG_SS].selector = 0x500;
	cpu->gpr[4] = 0xABCD0100;
	cpu->seg[SEG_CS] =
		(struct soft_seg){.selector = 0x100, .base = 0x1000, .limit = 0xFFFF, .attr = 0x9B};
	cpu->rip = 0x234;
	cpu_set_rflags(cpu, RF_ONE | RF_IF | RF_TF | RF_CF);
	sys_put32(m, 13 * 4, 0x77770042);
	fault(m, VEC_GP, true, 0x55); /* no error code here */
	assert_true(cpu_deliver_fault(cpu));
	assert_int_equal(cpu->rip, 0x42);
	assert_int_equal(cpu->seg[SEG_CS].selector, 0x7777);
	assert_int_equal(cpu->seg[SEG_CS].base, 0x77770);
	assert_int_equal(cpu->gpr[4], 0xABCD00FA);
	assert_int_equal(sys_get64(m, 0x50FA) & 0xFFFFFFFFFFFF, 0x030301000234);
	assert_int_equal(cpu_get_rflags(cpu), RF_ONE | RF_CF);
	/* A table too short for the vector, and for the double fault's: shutdown. */
	cpu->idt.limit = 8;
	fault(m, VEC_GP, true, 0);
	assert_false(cpu_deliver_fault(cpu));
	sys_machine_free(m);
}

static void test_long(void **state)
{
	struct sys_machine *m = sys_machine_new();
	struct soft_cpu *cpu = m->cpu;

	(void)state;
	sys_long(m, 3);
	sys_put64(m, SYS_TSS + 4, 0x9008);    /* RSP0, not aligned */
	sys_put64(m, SYS_TSS + 0x24, 0xA000); /* IST1 */
	sys_gate(m, 14, SYS_CODE64, 0x123456789A, 14, 0, 0);
	sys_gate(m, 33, SYS_CODE64, 0x5000, 15, 0, 1);
	cpu->gpr[4] = 0x7777;
	cpu->rip = 0x400123;
	cpu_set_rflags(cpu, RF_ONE | RF_IF | RF_NT | RF_AC);
	fault(m, VEC_PF, true, 6);
	assert_true(cpu_deliver_fault(cpu));
	assert_int_equal(cpu->cr2, 0x123456);
	assert_int_equal(cpu->rip, 0x123456789A);
	assert_int_equal(cpu->cpl, 0);
	assert_int_equal(cpu->seg[SEG_CS].selector, SYS_CODE64);
	assert_int_equal(cpu->seg[SEG_SS].selector, 0);
	assert_int_equal(cpu->gpr[4], 0x9000 - 48);
	assert_int_equal(sys_get64(m, 0x9000 - 48), 6);
	assert_int_equal(sys_get64(m, 0x9000 - 40), 0x400123);
	assert_int_equal(sys_get64(m, 0x9000 - 32), SYS_USER_CODE64);
	assert_int_equal(sys_get64(m, 0x9000 - 24), RF_ONE | RF_IF | RF_NT | RF_AC | RF_RF);
	assert_int_equal(sys_get64(m, 0x9000 - 16), 0x7777);
	assert_int_equal(sys_get64(m, 0x9000 - 8), SYS_USER_DATA32);
	assert_int_equal(cpu_get_rflags(cpu), RF_ONE | RF_AC);
	/* Same level, through IST and a trap gate, from outside: no RF, no error code. */
	cpu_set_rflags(cpu, RF_ONE | RF_IF);
	cpu->rip = 0x111;
	assert_true(cpu_deliver_interrupt(cpu, 33));
	assert_int_equal(cpu->gpr[4], 0xA000 - 40);
	assert_int_equal(sys_get64(m, 0xA000 - 40), 0x111);
	assert_int_equal(sys_get64(m, 0xA000 - 24), RF_ONE | RF_IF);
	assert_int_equal(sys_get64(m, 0xA000 - 8), 0);
	assert_int_equal(cpu_get_rflags(cpu), RF_ONE | RF_IF);
	/* Back. */
	assert_int_equal(sys_execute(m, (const uint8_t[]){0x48, 0xCF}, 2), -1);
	assert_int_equal(cpu->rip, 0x111);
	assert_int_equal(cpu->gpr[4], 0x9000 - 48);
	cpu->gpr[4] += 8;
	assert_int_equal(sys_execute(m, (const uint8_t[]){0x48, 0xCF}, 2), -1);
	assert_int_equal(cpu->rip, 0x400123);
	assert_int_equal(cpu->cpl, 3);
	assert_int_equal(cpu->gpr[4], 0x7777);
	assert_int_equal(cpu->seg[SEG_SS].selector, SYS_USER_DATA32);
	/* NT, which it restored, forbids IRET in long mode. */
	assert_int_equal(cpu_get_rflags(cpu), RF_ONE | RF_IF | RF_NT | RF_AC | RF_RF);
	assert_int_equal(sys_execute(m, (const uint8_t[]){0x48, 0xCF}, 2), VEC_GP);
	sys_machine_free(m);
}

static void test_protected(void **state)
{
	struct sys_machine *m = sys_machine_new();
	struct soft_cpu *cpu = m->cpu;

	(void)state;
	sys_protected(m, 3);
	sys_put32(m, SYS_TSS + 4, 0x9000);
	sys_put32(m, SYS_TSS + 8, SYS_DATA32);
	sys_gate(m, 13, SYS_CODE32, 0x12345678, 14, 0, 0);
	sys_gate(m, 0x30, SYS_CODE32, 0x12345678, 6, 3, 0);
	cpu->gpr[4] = 0xFFFF7000;
	cpu->rip = 0x1234;
	fault(m, VEC_GP, true, 0x28);
	assert_true(cpu_deliver_fault(cpu));
	assert_int_equal(cpu->rip, 0x12345678);
	assert_int_equal(cpu->gpr[4], 0x9000 - 24);
	assert_int_equal(sys_get32(m, 0x9000 - 24), 0x28);
	assert_int_equal(sys_get32(m, 0x9000 - 20), 0x1234);
	assert_int_equal(sys_get32(m, 0x9000 - 16), SYS_USER_CODE32);
	assert_int_equal(sys_get32(m, 0x9000 - 12), RF_ONE | RF_RF);
	assert_int_equal(sys_get32(m, 0x9000 - 8), 0xFFFF7000);
	assert_int_equal(sys_get32(m, 0x9000 - 4), SYS_USER_DATA32);
	/* Software: a 16-bit gate, whose privilege level allows it; another one's does not. */
	sys_protected(m, 3);
	cpu->rip = 0x1234;
	assert_int_equal(sys_execute(m, (const uint8_t[]){0xCD, 0x30}, 2), -1);
	assert_int_equal(cpu->rip, 0x5678);
	assert_int_equal(cpu->gpr[4], 0x9000 - 10);
	assert_int_equal(sys_get32(m, 0x9000 - 10) & 0xFFFF, 0x1236);
	sys_protected(m, 3);
	assert_int_equal(sys_execute(m, (const uint8_t[]){0xCD, 0x0D}, 2), VEC_GP);
	assert_int_equal(cpu->fault.error, 13 * 8 + 2);
	assert_int_equal(cpu->rip, 0x100000);
	sys_machine_free(m);
}

/* Virtual-8086 mode: the handler's frame has the data segments, and IRET takes them back. */
static void test_v86(void **state)
{
	struct sys_machine *m = sys_machine_new();
	struct soft_cpu *cpu = m->cpu;

	(void)state;
	sys_protected(m, 0);
	sys_put32(m, SYS_TSS + 4, 0x9000);
	sys_put32(m, SYS_TSS + 8, SYS_DATA32);
	sys_gate(m, 0x21, SYS_CODE32, 0x5000, 14, 0, 0);
	sys_gate(m, 0x22, SYS_CODE32, 0x5000, 14, 3, 0);
	cpu->gpr[4] = 0x8000;
	for (unsigned i = 0; i < 9; i++) /* EIP CS EFLAGS ESP SS ES DS FS GS */
		sys_put32(m, 0x8000 + 4 * i, 0x100 + i);
	sys_put32(m, 0x8008, RF_ONE | RF_VM | RF_IF);
	assert_int_equal(sys_execute(m, (const uint8_t[]){0xCF}, 1), -1);
	assert_int_equal(cpu->cpl, 3);
	assert_int_equal(cpu->mode, INSN_MODE_16);
	assert_false(cpu->vex_ok);
	assert_int_equal(cpu->rip, 0x100);
	assert_int_equal(cpu->seg[SEG_CS].base, 0x1010);
	assert_int_equal(cpu->seg[SEG_GS].selector, 0x108);
	assert_int_equal(cpu->seg[SEG_DS].base, 0x1060);
	assert_int_equal(cpu->gpr[4], 0x103);
	/* INT n needs IOPL 3. */
	assert_int_equal(sys_execute(m, (const uint8_t[]){0xCD, 0x22}, 2), VEC_GP);
	assert_int_equal(cpu->fault.error, 0);
	assert_true(cpu_deliver_interrupt(cpu, 0x21));
	assert_int_equal(cpu->cpl, 0);
	assert_int_equal(cpu->gpr[4], 0x9000 - 36);
	assert_int_equal(sys_get32(m, 0x9000 - 36), 0x100);
	assert_int_equal(sys_get32(m, 0x9000 - 28), RF_ONE | RF_VM | RF_IF);
	assert_int_equal(sys_get32(m, 0x9000 - 16), 0x105);
	assert_int_equal(sys_get32(m, 0x9000 - 4), 0x108);
	assert_int_equal(cpu->seg[SEG_DS].attr, 0);
	assert_false(cpu->rflags & (RF_VM | RF_IF));
	sys_machine_free(m);
}

/* Faults while one is delivered. */
static void test_double(void **state)
{
	struct sys_machine *m = sys_machine_new();
	struct soft_cpu *cpu = m->cpu;

	(void)state;
	sys_long(m, 0);
	sys_gate(m, 8, SYS_CODE64, 0x800, 14, 0, 0);
	sys_gate(m, 11, SYS_CODE64, 0xB00, 14, 0, 0);
	sys_gate(m, 14, SYS_CODE64, 0xE00, 14, 0, 0);
	/* Contributory after contributory: #GP has no gate. */
	cpu->rip = 0x42;
	fault(m, VEC_GP, true, 0);
	assert_true(cpu_deliver_fault(cpu));
	assert_int_equal(cpu->rip, 0x800);
	assert_int_equal(sys_get64(m, cpu->gpr[4]), 0);
	assert_int_equal(sys_get64(m, cpu->gpr[4] + 8), 0x42);
	/* Benign first: the second is delivered, with EXT for what came from outside. */
	sys_gate(m, 0x40, SYS_CODE64, 0x4000, 14, 0, 0);
	m->ram[SYS_IDT + 0x40 * 16 + 5] &= 0x7F; /* not present */
	assert_true(cpu_deliver_interrupt(cpu, 0x40));
	assert_int_equal(cpu->rip, 0xB00);
	assert_int_equal(sys_get64(m, cpu->gpr[4]), 0x40 * 8 + 2 + 1);
	/* Contributory, then a page fault: in series. */
	sys_gate(m, 13, SYS_CODE64, 0xD00, 14, 0, 1);
	sys_put64(m, SYS_TSS + 0x24, 0x40001000); /* IST1: nothing is mapped there */
	fault(m, VEC_GP, true, 0);
	assert_true(cpu_deliver_fault(cpu));
	assert_int_equal(cpu->rip, 0xE00);
	assert_int_equal(cpu->cr2, 0x40000FF8);
	assert_int_equal(sys_get64(m, cpu->gpr[4]), PF_W);
	/* A page fault in a page fault's delivery: double; in a double fault's: the end. */
	sys_gate(m, 14, SYS_CODE64, 0xE00, 14, 0, 1);
	fault(m, VEC_PF, true, 0);
	assert_true(cpu_deliver_fault(cpu));
	assert_int_equal(cpu->rip, 0x800);
	sys_gate(m, 8, SYS_CODE64, 0x800, 14, 0, 1);
	fault(m, VEC_PF, true, 0);
	assert_false(cpu_deliver_fault(cpu));
	sys_machine_free(m);
}

static void test_nmi_and_debug(void **state)
{
	struct sys_machine *m = sys_machine_new();
	struct soft_cpu *cpu = m->cpu;

	(void)state;
	sys_long(m, 0);
	sys_gate(m, 1, SYS_CODE64, 0x1000, 14, 0, 0);
	sys_gate(m, 2, SYS_CODE64, 0x2000, 14, 0, 0);
	assert_true(cpu_deliver_nmi(cpu));
	assert_true(cpu->nmi_blocked);
	assert_int_equal(sys_execute(m, (const uint8_t[]){0x48, 0xCF}, 2), -1);
	assert_false(cpu->nmi_blocked);
	/* A single step: TF before the instruction, DR6.BS after it, TF clear in the handler. */
	cpu_set_rflags(cpu, RF_ONE | RF_TF);
	assert_int_equal(cpu->debug, DEBUG_STEP);
	cpu_debug_before(cpu);
	assert_int_equal(SYS_RAISED(m, cpu_debug_after(cpu)), VEC_DB);
	cpu->dr6 = DR6_FIXED | 4;
	assert_true(cpu_deliver_fault(cpu));
	assert_int_equal(cpu->dr6, DR6_FIXED | DR6_BS);
	assert_int_equal(cpu->debug, 0);
	assert_int_equal(sys_get64(m, cpu->gpr[4] + 16), RF_ONE | RF_TF);
	/* A breakpoint on code: before the instruction, not with RF; INT1 needs no gate of DPL 3. */
	cpu->dr[0] = 0x1000;
	cpu->dr7 = 0x401;
	cpu_mode_changed(cpu);
	assert_int_equal(SYS_RAISED(m, cpu_debug_before(cpu)), VEC_DB);
	assert_int_equal(cpu->fault.address, 1);
	cpu_set_rflags(cpu, RF_ONE | RF_RF);
	assert_int_equal(SYS_RAISED(m, cpu_debug_before(cpu)), -1);
	assert_int_equal(SYS_RAISED(m, cpu_debug_after(cpu)), -1);
	assert_false(cpu->rflags & RF_RF);
	/* GD: the next use of a debug register is a fault. */
	cpu->dr7 |= DR7_GD;
	assert_int_equal(sys_execute(m, (const uint8_t[]){0x0F, 0x21, 0xC0}, 3), VEC_DB);
	assert_int_equal(cpu->fault.address, DR6_BD);
	sys_machine_free(m);
}

/* Single steps where an instruction changes TF, rests, or holds breakpoints back. */
static void test_steps(void **state)
{
	struct sys_machine *m = sys_machine_new();
	struct soft_cpu *cpu = m->cpu;
	uint32_t hit;

	(void)state;
	sys_long(m, 0);
	/* SYSRET that sets TF: the step comes before the next instruction. */
	cpu->star = 0x0018ULL << 48;
	cpu->gpr[1] = 0x5000;
	cpu->gpr[11] = RF_ONE | RF_TF;
	assert_int_equal(sys_execute(m, (const uint8_t[]){0x48, 0x0F, 0x07}, 3), -1);
	assert_int_equal(SYS_RAISED(m, cpu_debug_before(cpu)), VEC_DB);
	assert_int_equal(cpu->fault.address, DR6_BS);
	assert_int_equal(cpu->rip, 0x5000);
	/* SYSCALL that clears it: none. */
	cpu->lstar = 0x6000;
	cpu->sfmask = RF_TF;
	cpu->star = (uint64_t)SYS_CODE64 << 32;
	cpu_debug_before(cpu);
	assert_int_equal(sys_execute(m, (const uint8_t[]){0x0F, 0x05}, 2), -1);
	assert_int_equal(SYS_RAISED(m, cpu_debug_after(cpu)), -1);
	/* HLT: the step ends its rest. */
	cpu_set_rflags(cpu, RF_ONE | RF_TF);
	cpu_debug_before(cpu);
	cpu->mp_state = X86_MP_HALTED;
	assert_int_equal(SYS_RAISED(m, cpu_debug_after(cpu)), VEC_DB);
	assert_int_equal(cpu->mp_state, X86_MP_RUNNABLE);
	/* MOV SS from a watched place: the breakpoint comes after the next instruction, and with INT1's own exception. */
	sys_long(m, 0);
	sys_gate(m, 1, SYS_CODE64, 0x1000, 14, 0, 0);
	cpu->dr[0] = 0x7000;
	cpu->dr7 = 0x401 | 3u << 16;
	cpu_mode_changed(cpu);
	sys_put32(m, 0x7000, SYS_DATA32);
	cpu->gpr[0] = 0x7000;
	cpu_debug_before(cpu);
	assert_int_equal(sys_execute(m, (const uint8_t[]){0x8E, 0x10}, 2), -1);
	assert_int_equal(SYS_RAISED(m, cpu_debug_after(cpu)), -1);
	cpu_debug_before(cpu);
	assert_int_equal(sys_execute(m, (const uint8_t[]){0xF1}, 1), -1);
	hit = (uint32_t)cpu->dr6 & 0xF;
	assert_int_equal(hit, 1);
	assert_int_equal(SYS_RAISED(m, cpu_debug_after(cpu)), -1);
	sys_machine_free(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_real),      cmocka_unit_test(test_long),
		cmocka_unit_test(test_protected), cmocka_unit_test(test_v86),
		cmocka_unit_test(test_double),    cmocka_unit_test(test_nmi_and_debug),
		cmocka_unit_test(test_steps),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
