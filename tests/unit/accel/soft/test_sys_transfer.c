/*
 * Far transfers, gates, task switches, fast system calls, segment loads, descriptor instructions, control registers.
 */
#include "unit/test.h"

#include "sys_machine.h"
#include "vm/accel/soft/cpu/cpu_int.h"

#define RUN(m, ...)                                                                                \
	sys_execute(m, (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

static void test_seg_load(void **state)
{
	struct sys_machine *m = sys_machine_new();
	struct soft_cpu *cpu = m->cpu;

	(void)state;
	sys_protected(m, 0);
	/* A data segment: accessed bit, base, limit by granularity. */
	sys_put64(m, SYS_GDT + SYS_FREE, sys_descriptor(0x12345678, 0x12345, 0xC092));
	cpu->gpr[0] = SYS_FREE;
	assert_int_equal(RUN(m, 0x8E, 0xD8), -1); /* mov ds, ax */
	assert_int_equal(cpu->seg[SEG_DS].base, 0x12345678);
	assert_int_equal(cpu->seg[SEG_DS].limit, 0x12345FFF);
	assert_int_equal(m->ram[SYS_GDT + SYS_FREE + 5], 0x93);
	assert_int_equal(RUN(m, 0x8E, 0xD0), -1); /* mov ss, ax */
	assert_true(cpu->shadow);
	/* Null is allowed there, not in SS; using it is a fault. */
	cpu->gpr[0] = 3;
	assert_int_equal(RUN(m, 0x8E, 0xD8), -1);
	assert_int_equal(SYS_RAISED(m, seg_linear(cpu, SEG_DS, 0, 1, false)), VEC_GP);
	assert_int_equal(RUN(m, 0x8E, 0xD0), VEC_GP);
	/* Not present; wrong privilege; outside; code that cannot be read. */
	sys_put64(m, SYS_GDT + SYS_FREE, sys_descriptor(0, 0xFFFFF, 0xC013));
	cpu->gpr[0] = SYS_FREE;
	assert_int_equal(RUN(m, 0x8E, 0xD8), VEC_NP);
	assert_int_equal(cpu->fault.error, SYS_FREE);
	assert_int_equal(RUN(m, 0x8E, 0xD0), VEC_SS);
	cpu->gpr[0] = SYS_DATA32 | 3;
	assert_int_equal(RUN(m, 0x8E, 0xD8), VEC_GP);
	cpu->gpr[0] = 0x100;
	assert_int_equal(RUN(m, 0x8E, 0xD8), VEC_GP);
	assert_int_equal(cpu->fault.error, 0x100);
	sys_put64(m, SYS_GDT + SYS_FREE, sys_descriptor(0, 0xFFFFF, 0xC099));
	cpu->gpr[0] = SYS_FREE;
	assert_int_equal(RUN(m, 0x8E, 0xD8), VEC_GP);
	/* Expand down: above the limit only. */
	sys_put64(m, SYS_GDT + SYS_FREE, sys_descriptor(0, 0xFFF, 0x4097));
	assert_int_equal(RUN(m, 0x8E, 0xD8), -1);
	assert_int_equal(SYS_RAISED(m, seg_linear(cpu, SEG_DS, 0xFFF, 1, false)), VEC_GP);
	assert_int_equal(SYS_RAISED(m, seg_linear(cpu, SEG_DS, 0x1000, 4, true)), -1);
	assert_int_equal(SYS_RAISED(m, seg_linear(cpu, SEG_DS, 0xFFFFFFFE, 4, true)), VEC_GP);
	/* Code is not written. */
	assert_int_equal(SYS_RAISED(m, seg_linear(cpu, SEG_CS, 0, 4, false)), -1);
	assert_int_equal(SYS_RAISED(m, seg_linear(cpu, SEG_CS, 0, 4, true)), VEC_GP);
	sys_machine_free(m);
}

static void test_far(void **state)
{
	struct sys_machine *m = sys_machine_new();
	struct soft_cpu *cpu = m->cpu;

	(void)state;
	/* call 48:1234, then retf, to 16-bit code and back */
	sys_protected(m, 0);
	assert_int_equal(RUN(m, 0x9A, 0x34, 0x12, 0, 0, 0x48, 0), -1);
	assert_int_equal(cpu->mode, INSN_MODE_16);
	assert_int_equal(cpu->rip, 0x1234);
	assert_int_equal(cpu->gpr[4], 0x7FF8);
	assert_int_equal(sys_get64(m, 0x7FF8), 0x0000000800100007);
	assert_int_equal(RUN(m, 0x66, 0xCB), -1);
	assert_int_equal(cpu->mode, INSN_MODE_32);
	assert_int_equal(cpu->rip, 0x100007);
	assert_int_equal(cpu->gpr[4], 0x8000);
	/* Beyond the limit; not code; not present. */
	assert_int_equal(RUN(m, 0xEA, 0, 0, 1, 0, 0x48, 0), VEC_GP);
	assert_int_equal(cpu->fault.error, 0);
	assert_int_equal(RUN(m, 0xEA, 0, 0, 0, 0, 0x10, 0), VEC_GP);
	assert_int_equal(cpu->fault.error, 0x10);
	assert_int_equal(RUN(m, 0xEA, 0, 0, 0, 0, SYS_CODE32 | 3, 0), VEC_GP);
	assert_int_equal(cpu->fault.error, SYS_CODE32);
	assert_int_equal(RUN(m, 0xEA, 0, 0, 0, 0, SYS_USER_CODE32 & ~3u, 0), VEC_GP);
	sys_put64(m, SYS_GDT + SYS_FREE, sys_descriptor(0, 0xFFFFF, 0xC01B));
	assert_int_equal(RUN(m, 0xEA, 0, 0, 0, 0, SYS_FREE, 0), VEC_NP);
	assert_int_equal(cpu->rip, 0x100007);
	/* To an outer level by RET n: the stack of both is released, segments of the inner one are dropped. */
	sys_put32(m, 0x8000, 0x4444);
	sys_put32(m, 0x8004, SYS_USER_CODE32);
	sys_put32(m, 0x8010, 0x6000);
	sys_put32(m, 0x8014, SYS_USER_DATA32);
	assert_int_equal(RUN(m, 0xCA, 8, 0), -1);
	assert_int_equal(cpu->cpl, 3);
	assert_int_equal(cpu->rip, 0x4444);
	assert_int_equal(cpu->gpr[4], 0x6008);
	assert_int_equal(cpu->seg[SEG_DS].selector, 0);
	sys_machine_free(m);
}

static void test_call_gate(void **state)
{
	struct sys_machine *m = sys_machine_new();
	struct soft_cpu *cpu = m->cpu;

	(void)state;
	sys_protected(m, 3);
	sys_put32(m, SYS_TSS + 4, 0x9000);
	sys_put32(m, SYS_TSS + 8, SYS_DATA32);
	/* 32-bit, DPL 3, two parameters, to 08:00056789 */
	sys_put64(m, SYS_GDT + SYS_FREE, 0x0005EC0200086789);
	sys_put32(m, 0x8000, 0xAAAA);
	sys_put32(m, 0x8004, 0xBBBB);
	assert_int_equal(RUN(m, 0x9A, 0, 0, 0, 0, SYS_FREE | 3, 0), -1);
	assert_int_equal(cpu->cpl, 0);
	assert_int_equal(cpu->rip, 0x56789);
	assert_int_equal(cpu->gpr[4], 0x9000 - 24);
	assert_int_equal(sys_get32(m, 0x9000 - 24), 0x100007);
	assert_int_equal(sys_get32(m, 0x9000 - 20), SYS_USER_CODE32);
	assert_int_equal(sys_get32(m, 0x9000 - 16), 0xAAAA);
	assert_int_equal(sys_get32(m, 0x9000 - 12), 0xBBBB);
	assert_int_equal(sys_get32(m, 0x9000 - 8), 0x8000);
	assert_int_equal(RUN(m, 0xCA, 8, 0), -1);
	assert_int_equal(cpu->cpl, 3);
	assert_int_equal(cpu->gpr[4], 0x8008);
	/* A jump does not change the level; the gate's own level counts. */
	assert_int_equal(RUN(m, 0xEA, 0, 0, 0, 0, SYS_FREE | 3, 0), VEC_GP);
	assert_int_equal(cpu->fault.error, SYS_CODE32);
	m->ram[SYS_GDT + SYS_FREE + 5] = 0x8C;
	assert_int_equal(RUN(m, 0x9A, 0, 0, 0, 0, SYS_FREE | 3, 0), VEC_GP);
	assert_int_equal(cpu->fault.error, SYS_FREE);
	/* Long mode: 16 bytes, stack from RSP0, null SS. */
	sys_long(m, 3);
	sys_put64(m, SYS_TSS + 4, 0x9000);
	sys_put64(m, SYS_GDT + SYS_FREE, 0x0005EC0000286789);
	sys_put64(m, SYS_GDT + SYS_FREE + 8, 0x12);
	sys_put32(m, 0x7000, 0);
	sys_put32(m, 0x7004, SYS_FREE | 3);
	cpu->gpr[0] = 0x7000;
	assert_int_equal(RUN(m, 0xFF, 0x18), -1);
	assert_int_equal(cpu->rip, 0x1200056789);
	assert_int_equal(cpu->gpr[4], 0x9000 - 32);
	assert_int_equal(sys_get64(m, 0x9000 - 32), 0x100002);
	assert_int_equal(sys_get64(m, 0x9000 - 8), SYS_USER_DATA32);
	assert_int_equal(cpu->seg[SEG_SS].selector, 0);
	assert_int_equal(RUN(m, 0x48, 0xCB), -1);
	assert_int_equal(cpu->cpl, 3);
	assert_int_equal(cpu->gpr[4], 0x8000);
	sys_machine_free(m);
}

static void test_task(void **state)
{
	struct sys_machine *m = sys_machine_new();
	struct soft_cpu *cpu = m->cpu;
	const uint32_t tss = 0x4000;

	(void)state;
	sys_protected(m, 0);
	sys_put64(m, SYS_GDT + SYS_FREE, sys_descriptor(tss, 0x67, 0x89));
	sys_put32(m, tss + 0x20, 0x5555);
	sys_put32(m, tss + 0x24, RF_ONE | RF_CF);
	sys_put32(m, tss + 0x28 + 4 * 3, 0xB0B0B0B0);
	sys_put32(m, tss + 0x28 + 4 * 4, 0xA000);
	sys_put32(m, tss + 0x48, SYS_DATA32);
	sys_put32(m, tss + 0x4C, SYS_CODE32);
	sys_put32(m, tss + 0x50, SYS_DATA32);
	sys_put32(m, tss + 0x54, SYS_DATA32);
	cpu->gpr[3] = 0x11223344;
	/* A nested task: link, NT, busy. */
	assert_int_equal(RUN(m, 0x9A, 0, 0, 0, 0, SYS_FREE, 0), -1);
	assert_int_equal(cpu->rip, 0x5555);
	assert_int_equal(cpu->gpr[3], 0xB0B0B0B0);
	assert_int_equal(cpu->gpr[4], 0xA000);
	assert_int_equal(cpu_get_rflags(cpu), RF_ONE | RF_CF | RF_NT);
	assert_int_equal(cpu->tr.selector, SYS_FREE);
	assert_true(cpu->cr0 & CR0_TS);
	assert_int_equal(sys_get32(m, tss), SYS_TSS_SEL);
	assert_int_equal(m->ram[SYS_GDT + SYS_FREE + 5], 0x8B);
	assert_int_equal(m->ram[SYS_GDT + SYS_TSS_SEL + 5], 0x8B);
	assert_int_equal(sys_get32(m, SYS_TSS + 0x20), 0x100007);
	assert_int_equal(sys_get32(m, SYS_TSS + 0x28 + 12), 0x11223344);
	/* It is busy: not again. And back. */
	assert_int_equal(RUN(m, 0x9A, 0, 0, 0, 0, SYS_FREE, 0), VEC_GP);
	assert_int_equal(RUN(m, 0xCF), -1);
	assert_int_equal(cpu->rip, 0x100007);
	assert_int_equal(cpu->gpr[3], 0x11223344);
	assert_int_equal(cpu->tr.selector, SYS_TSS_SEL);
	assert_int_equal(m->ram[SYS_GDT + SYS_FREE + 5], 0x89);
	assert_false(cpu->rflags & RF_NT);
	/* Through a task gate in the IDT, with an error code on the new stack. */
	sys_put64(m, SYS_IDT + 13 * 8, (uint64_t)SYS_FREE << 16 | 0x85ULL << 40);
	cpu->fault = (struct soft_fault){.vector = VEC_GP, .has_error = true, .error = 0x1234};
	assert_true(cpu_deliver_fault(cpu));
	assert_int_equal(cpu->gpr[4], 0x9FFC);
	assert_int_equal(sys_get32(m, 0x9FFC), 0x1234);
	/* What is wrong with its segments is the new task's fault. */
	sys_protected(m, 0);
	sys_put64(m, SYS_GDT + SYS_FREE, sys_descriptor(tss, 0x67, 0x89));
	sys_put32(m, tss + 0x20, 0x5555);
	sys_put32(m, tss + 0x50, SYS_CODE32);
	assert_int_equal(RUN(m, 0xEA, 0, 0, 0, 0, SYS_FREE, 0), VEC_TS);
	assert_int_equal(cpu->fault.error, SYS_CODE32);
	assert_int_equal(cpu->rip, 0x5555);
	/* Too short: nothing has happened. */
	sys_protected(m, 0);
	sys_put64(m, SYS_GDT + SYS_FREE, sys_descriptor(tss, 0x66, 0x89));
	assert_int_equal(RUN(m, 0xEA, 0, 0, 0, 0, SYS_FREE, 0), VEC_TS);
	assert_int_equal(cpu->rip, 0x100000);
	sys_machine_free(m);
}

static void test_syscall(void **state)
{
	struct sys_machine *m = sys_machine_new();
	struct soft_cpu *cpu = m->cpu;
	const uint64_t star = 0x0018ULL << 48 | (uint64_t)SYS_CODE64 << 32;

	(void)state;
	sys_long(m, 3);
	cpu->star = star;
	cpu->lstar = 0xFFFF800000001000;
	cpu->sfmask = RF_IF | RF_DF;
	cpu_set_rflags(cpu, RF_ONE | RF_IF | RF_DF | RF_ZF);
	cpu->gpr[4] = 0x7777;
	assert_int_equal(RUN(m, 0x0F, 0x05), -1);
	assert_int_equal(cpu->rip, 0xFFFF800000001000);
	assert_int_equal(cpu->cpl, 0);
	assert_int_equal(cpu->gpr[1], 0x100002);
	assert_int_equal(cpu->gpr[11], RF_ONE | RF_IF | RF_DF | RF_ZF);
	assert_int_equal(cpu_get_rflags(cpu), RF_ONE | RF_ZF);
	assert_int_equal(cpu->seg[SEG_CS].selector, SYS_CODE64);
	assert_int_equal(cpu->seg[SEG_SS].selector, SYS_CODE64 + 8);
	assert_int_equal(RUN(m, 0x48, 0x0F, 0x07), -1);
	assert_int_equal(cpu->cpl, 3);
	assert_int_equal(cpu->rip, 0x100002);
	assert_int_equal(cpu->seg[SEG_CS].selector, 0x2B);
	assert_int_equal(cpu->seg[SEG_SS].selector, 0x23);
	assert_int_equal(cpu_get_rflags(cpu), RF_ONE | RF_IF | RF_DF | RF_ZF);
	assert_int_equal(RUN(m, 0x48, 0x0F, 0x07), VEC_GP);
	cpu->efer &= ~(uint64_t)EFER_SCE;
	assert_int_equal(RUN(m, 0x0F, 0x05), VEC_UD);
	/* 32-bit SYSRET, into compatibility mode */
	sys_long(m, 0);
	cpu->gpr[1] = 0xFFFFFFFF00001234;
	cpu->gpr[11] = 2;
	assert_int_equal(RUN(m, 0x0F, 0x07), -1);
	assert_int_equal(cpu->rip, 0x1234);
	assert_int_equal(cpu->mode, INSN_MODE_32);
	/* SYSENTER outside of long mode */
	sys_protected(m, 3);
	assert_int_equal(RUN(m, 0x0F, 0x34), VEC_GP);
	cpu->sysenter_cs = SYS_CODE32;
	cpu->sysenter_esp = 0x9000;
	cpu->sysenter_eip = 0x5000;
	assert_int_equal(RUN(m, 0x0F, 0x34), -1);
	assert_int_equal(cpu->cpl, 0);
	assert_int_equal(cpu->gpr[4], 0x9000);
	cpu->gpr[1] = 0x8000;
	cpu->gpr[2] = 0x6000;
	assert_int_equal(RUN(m, 0x0F, 0x35), -1);
	assert_int_equal(cpu->cpl, 3);
	assert_int_equal(cpu->rip, 0x6000);
	assert_int_equal(cpu->seg[SEG_CS].selector, SYS_USER_CODE32);
	sys_machine_free(m);
}

static void test_descriptors(void **state)
{
	struct sys_machine *m = sys_machine_new();
	struct soft_cpu *cpu = m->cpu;

	(void)state;
	sys_protected(m, 3);
	cpu->gpr[0] = SYS_USER_DATA32;
	assert_int_equal(RUN(m, 0x0F, 0x02, 0xD8), -1); /* lar ebx, eax */
	assert_true(cpu->status & ST_ZF);
	assert_int_equal(cpu->gpr[3], 0xCFF300);
	assert_int_equal(RUN(m, 0x0F, 0x03, 0xD8), -1); /* lsl */
	assert_int_equal(cpu->gpr[3], 0xFFFFFFFF);
	assert_int_equal(RUN(m, 0x0F, 0x00, 0xE8), -1); /* verw */
	assert_true(cpu->status & ST_ZF);
	cpu->gpr[0] = SYS_DATA32;
	assert_int_equal(RUN(m, 0x0F, 0x02, 0xD8), -1);
	assert_false(cpu->status & ST_ZF);
	assert_int_equal(cpu->gpr[3], 0xFFFFFFFF);
	cpu->gpr[0] = SYS_USER_CODE32;
	assert_int_equal(RUN(m, 0x0F, 0x00, 0xE0), -1); /* verr */
	assert_true(cpu->status & ST_ZF);
	cpu->gpr[0] = 0x20;
	cpu->gpr[1] = 3;
	assert_int_equal(RUN(m, 0x63, 0xC8), -1); /* arpl ax, cx */
	assert_int_equal(cpu->gpr[0], 0x23);
	/* UMIP */
	assert_int_equal(RUN(m, 0x0F, 0x01, 0xE0), -1); /* smsw eax */
	assert_int_equal(cpu->gpr[0], cpu->cr0);
	cpu->cr4 |= CR4_UMIP;
	assert_int_equal(RUN(m, 0x0F, 0x01, 0xE0), VEC_GP);
	assert_int_equal(RUN(m, 0x0F, 0x01, 0xD8), -2); /* vmrun is nobody's */
	assert_int_equal(RUN(m, 0x0F, 0x20, 0xC0), VEC_GP);
	/* LTR: busy; in long mode 16 bytes */
	sys_long(m, 0);
	cpu->gpr[0] = SYS_TSS_SEL;
	assert_int_equal(RUN(m, 0x0F, 0x00, 0xD8), VEC_GP); /* it is busy */
	m->ram[SYS_GDT + SYS_TSS_SEL + 5] = 0x89;
	sys_put64(m, SYS_GDT + SYS_TSS_SEL + 8, 0xFFFF8000);
	assert_int_equal(RUN(m, 0x0F, 0x00, 0xD8), -1);
	assert_int_equal(cpu->tr.base, 0xFFFF800000003000);
	assert_int_equal(m->ram[SYS_GDT + SYS_TSS_SEL + 5], 0x8B);
	sys_machine_free(m);
}

static void test_control(void **state)
{
	struct sys_machine *m = sys_machine_new();
	struct soft_cpu *cpu = m->cpu;

	(void)state;
	/* Real to protected to long mode, as firmware does it. */
	sys_protected(m, 0);
	cpu->cr0 &= ~(uint64_t)CR0_PE;
	cpu_mode_changed(cpu);
	cpu_set_cr0(cpu, CR0_PE | CR0_ET);
	assert_true(cpu->vex_ok);
	assert_int_equal(SYS_RAISED(m, cpu_set_cr0(cpu, CR0_PG)), VEC_GP);
	assert_int_equal(SYS_RAISED(m, cpu_set_cr0(cpu, CR0_PE | CR0_NW)), VEC_GP);
	assert_int_equal(SYS_RAISED(m, cpu_set_cr4(cpu, 1u << 12)), VEC_GP); /* LA57 */
	assert_true(cpu_wrmsr(cpu, 0xC0000080, EFER_LME | EFER_NXE));
	assert_false(cpu_wrmsr(cpu, 0xC0000080, 1u << 12));
	assert_int_equal(SYS_RAISED(m, cpu_set_cr0(cpu, CR0_PE | CR0_PG)), VEC_GP); /* no PAE */
	cpu_set_cr4(cpu, CR4_PAE);
	cpu_set_cr3(cpu, 0x10000);
	sys_put64(m, 0x10000, 0x11007);
	sys_put64(m, 0x11000, 0x00087);
	cpu_set_cr0(cpu, CR0_PE | CR0_PG);
	assert_int_equal(cpu->efer, EFER_LME | EFER_NXE | EFER_LMA);
	assert_int_equal(cpu->mode, INSN_MODE_32);
	assert_false(cpu_wrmsr(cpu, 0xC0000080, EFER_NXE)); /* LME with paging on */
	assert_int_equal(RUN(m, 0xEA, 0, 0x10, 0, 0, SYS_CODE64, 0), -1);
	assert_int_equal(cpu->mode, INSN_MODE_64);
	assert_int_equal(SYS_RAISED(m, cpu_set_cr4(cpu, 0)), VEC_GP);
	assert_int_equal(SYS_RAISED(m, cpu_set_cr0(cpu, CR0_PE)), VEC_GP); /* in 64-bit code */
	assert_int_equal(SYS_RAISED(m, cpu_set_cr3(cpu, 1ULL << 60)), VEC_GP);
	/* Registers that are judged. */
	assert_false(cpu_wrmsr(cpu, 0x277, 0x0007040600070402));
	assert_true(cpu_wrmsr(cpu, 0x277, 0x0007040600070401));
	assert_false(cpu_wrmsr(cpu, 0xC0000082, 1ULL << 62));
	assert_false(cpu_wrmsr(cpu, 0x12345, 0));
	assert_int_equal(cpu->tlbs->msr_count, 1);
	assert_int_equal(RUN(m, 0xF4), -1);
	assert_true(m->halted);
	/* INIT: not the MSRs, but modes and segments. */
	cpu->lstar = 0x1000;
	cpu_init_signal(cpu);
	assert_int_equal(cpu->lstar, 0x1000);
	assert_int_equal(cpu->efer, 0);
	assert_int_equal(cpu->mode, INSN_MODE_16);
	assert_int_equal(cpu->seg[SEG_CS].base + cpu->rip, 0xFFFFFFF0);
	sys_machine_free(m);
}

static void test_io(void **state)
{
	struct sys_machine *m = sys_machine_new();
	struct soft_cpu *cpu = m->cpu;

	(void)state;
	sys_protected(m, 3);
	assert_int_equal(SYS_RAISED(m, cpu_check_io(cpu, 0x3F8, 1)), VEC_GP);
	cpu->tr.limit = 0x68 + 0x80;
	sys_put32(m, SYS_TSS + 0x64, 0x68u << 16);
	memset(m->ram + SYS_TSS + 0x68, 0xFF, 0x82);
	m->ram[SYS_TSS + 0x68 + 0x3F8 / 8] = 0xFE;
	assert_int_equal(SYS_RAISED(m, cpu_check_io(cpu, 0x3F8, 1)), -1);
	assert_int_equal(SYS_RAISED(m, cpu_check_io(cpu, 0x3F8, 2)), VEC_GP);
	m->ram[SYS_TSS + 0x68 + 0x3F0 / 8] = 0x7F;
	assert_int_equal(SYS_RAISED(m, cpu_check_io(cpu, 0x3F7, 2)), -1);
	assert_int_equal(SYS_RAISED(m, cpu_check_io(cpu, 0x3F7, 4)), VEC_GP);
	m->ram[SYS_TSS + 0x68 + 0x7F] = 0;
	m->ram[SYS_TSS + 0x68 + 0x80] = 0;
	assert_int_equal(SYS_RAISED(m, cpu_check_io(cpu, 0x3FF, 1)), -1);
	assert_int_equal(SYS_RAISED(m, cpu_check_io(cpu, 0x400, 1)), VEC_GP); /* past the limit */
	cpu_set_rflags(cpu, RF_ONE | RF_IOPL);
	assert_int_equal(SYS_RAISED(m, cpu_check_io(cpu, 0x400, 1)), -1);
	sys_machine_free(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_seg_load),  cmocka_unit_test(test_far),
		cmocka_unit_test(test_call_gate), cmocka_unit_test(test_task),
		cmocka_unit_test(test_syscall),   cmocka_unit_test(test_descriptors),
		cmocka_unit_test(test_control),   cmocka_unit_test(test_io),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
