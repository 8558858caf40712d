/*
 * The interpreter: loops, code that changes itself, strings that are interrupted or fault half way, the shadow of STI, real mode; and
 * instructions that 64-bit mode does not have, one by one. What both modes have is in test_host.c. INTERP_BENCH=1: how fast.
 */
#include "rig.h"

#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "vm/accel/soft/interp/code.h"

#define CODE   0x10000u
#define DATA   0x100000u
#define STACK  0x180000u
#define TABLES 0x1000u

#define PAYLOAD(name) extern const uint8_t payload_##name[], payload_##name##_end[];
PAYLOAD(mix)
PAYLOAD(self_modifying)
PAYLOAD(fill)
PAYLOAD(real)
PAYLOAD(call_always)
PAYLOAD(patch_always)
#define CODE_OF(name) payload_##name, (size_t)(payload_##name##_end - payload_##name)

uint64_t interp_count(const struct soft_cpu *cpu);

/* 64-bit guests with the first 2 MiB mapped where they are. */
static void boot_all(struct rig *r, unsigned n, bool interpret, const uint8_t *code, size_t size)
{
	const struct x86_boot_regs regs = {
		.mode = X86_BOOT_LONG64,
		.rip = CODE,
		.cr3 = TABLES,
		.rbx = DATA,
		.rsp = STACK,
		.cs_selector = 8,
		.ds_selector = 16,
		.tss_selector = 24,
	};
	const uint64_t entry[3] = {(TABLES + 0x1000) | 7, (TABLES + 0x2000) | 7, 0x87};
	struct error err = ERROR_INIT;

	rig_open(r, n, interpret);
	for (unsigned i = 0; i < 3; i++)
		gmem_write(r->mem, TABLES + 0x1000 * i, &entry[i], 8);
	gmem_write(r->mem, CODE, code, size);
	for (unsigned i = 0; i < n; i++)
		assert_int_equal(accel_vcpu_set_boot(&r->cpu[i]->base, &regs, &err), 0);
}

static void boot(struct rig *r, const uint8_t *code, size_t size)
{
	boot_all(r, 1, true, code, size);
}

/* Runs until HLT; returns how many times the loop was left on the way. */
static unsigned run_to_halt(struct soft_cpu *cpu)
{
	unsigned n = 0;

	for (; cpu->mp_state != X86_MP_HALTED; n++) {
		atomic_store(&cpu->request, 0);
		assert_true(interp_run(cpu));
		assert_true(n < 10000);
	}
	return n;
}

/* --- blocks --- */

static uint64_t mix_in_c(uint64_t n)
{
	static uint8_t memory[8192];
	uint64_t sum = 0;

	memset(memory, 0, sizeof(memory));
	for (uint64_t i = n; i > 0; i--) {
		uint64_t at = i * 17 & 0xff8, x;

		sum += le_load(memory + at, 8);
		memcpy(memory + 8, &sum, 8);
		x = sum + 4 * i + 3;
		x ^= x >> 7;
		if (x & 1)
			sum += 5;
		memcpy(memory + at + 16, &x, 8);
		sum += x;
		if (memory[at] <= 200)
			sum -= memory[at];
	}
	return sum;
}

static void a_loop_computes(void **state)
{
	struct rig r;

	boot(&r, CODE_OF(mix));
	r.cpu[0]->gpr[1] = 50000;
	run_to_halt(r.cpu[0]);
	assert_int_equal(r.cpu[0]->gpr[0], mix_in_c(50000));
	assert_int_equal(r.cpu[0]->gpr[4], STACK);
	rig_fini(&r);
}

static void code_that_changes_itself(void **state)
{
	struct rig r;

	boot(&r, CODE_OF(self_modifying));
	run_to_halt(r.cpu[0]);
	/* 2 and 1 from the first place, 7 twice from the second. */
	assert_int_equal(r.cpu[0]->gpr[0], 2 + 1 + 7 + 7);
	rig_fini(&r);
}

static void a_device_changes_code(void **state)
{
	/* mov $1, %eax; hlt */
	static const uint8_t code[] = {0xb8, 1, 0, 0, 0, 0xf4};
	const uint8_t two = 2;
	struct rig r;

	boot(&r, code, sizeof(code));
	run_to_halt(r.cpu[0]);
	assert_int_equal(r.cpu[0]->gpr[0], 1);
	gmem_write(r.mem, CODE + 1, &two, 1);
	code_written(r.soft, NULL, CODE + 1, 1);
	r.cpu[0]->rip = CODE;
	r.cpu[0]->mp_state = X86_MP_RUNNABLE;
	run_to_halt(r.cpu[0]);
	assert_int_equal(r.cpu[0]->gpr[0], 2);
	rig_fini(&r);
}

/* An instruction whose bytes are in two pages. */
static void across_a_page(void **state)
{
	/* mov $0x1122334455667788, %rax; hlt */
	static const uint8_t code[] = {0x48, 0xb8, 0x88, 0x77, 0x66, 0x55,
				       0x44, 0x33, 0x22, 0x11, 0xf4};
	struct rig r;

	boot(&r, code, sizeof(code));
	gmem_write(r.mem, CODE + 0xffa, code, sizeof(code));
	r.cpu[0]->rip = CODE + 0xffa;
	run_to_halt(r.cpu[0]);
	assert_int_equal(r.cpu[0]->gpr[0], 0x1122334455667788);
	rig_fini(&r);
}

static void *run_thread(void *opaque)
{
	accel_vcpu_run(opaque);
	return NULL;
}

/* One processor changes what another one executes all the time; no change may stay unseen. */
static void patched_by_another(bool interpret)
{
	static const uint8_t function[] = {0xb8, 0, 0, 0, 0, 0xc3}; /* mov $0, %eax; ret */
	struct rig r;
	const volatile uint32_t *done;
	pthread_t thread[2];

	boot_all(&r, 2, interpret, CODE_OF(call_always));
	gmem_write(r.mem, CODE + 0x1000, function, sizeof(function));
	gmem_write(r.mem, CODE + 0x2000, CODE_OF(patch_always));
	done = gmem_ptr(r.mem, DATA + 8, 4);
	for (unsigned i = 0; i < 2; i++)
		r.cpu[i]->gpr[7] = CODE + 0x1000;
	r.cpu[1]->rip = CODE + 0x2000;
	r.cpu[1]->gpr[1] = 300;
	r.cpu[1]->gpr[4] = STACK - 4096;
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, run_thread, &r.cpu[i]->base), 0);
	while (!*done)
		usleep(100);
	for (unsigned i = 0; i < 2; i++) {
		accel_vcpu_kick(&r.cpu[i]->base);
		pthread_join(thread[i], NULL);
	}
	assert_int_equal(r.cpu[1]->gpr[2], 300);
	rig_fini(&r);
}

static void another_processor_changes_code(void **state)
{
	patched_by_another(true);
}

static void another_processor_changes_translated_code(void **state)
{
	patched_by_another(false);
}

/* --- strings --- */

static void strings_cross_pages(void **state)
{
	struct rig r;
	const uint8_t *ram;

	boot(&r, CODE_OF(fill));
	r.cpu[0]->gpr[7] = DATA + 100;
	r.cpu[0]->gpr[1] = 3 * 4096;
	r.cpu[0]->gpr[0] = 0x5a;
	run_to_halt(r.cpu[0]);
	assert_int_equal(r.cpu[0]->gpr[1], 0);
	assert_int_equal(r.cpu[0]->gpr[7], DATA + 100 + 3 * 4096);
	assert_true(r.cpu[0]->status & ST_ZF);
	ram = gmem_ptr(r.mem, DATA, 4 * 4096);
	assert_int_equal(ram[99], 0);
	assert_int_equal(ram[100], 0x5a);
	assert_int_equal(ram[100 + 3 * 4096 - 1], 0x5a);
	assert_int_equal(ram[100 + 3 * 4096], 0);
	rig_fini(&r);
}

static void a_string_is_interrupted(void **state)
{
	struct rig r;
	struct soft_cpu *cpu;

	boot(&r, CODE_OF(fill));
	cpu = r.cpu[0];
	cpu->gpr[7] = DATA;
	cpu->gpr[1] = 3 * 4096;
	cpu->gpr[0] = 0x5a;
	if (setjmp(cpu->unwind) != 0)
		fail();
	interp_step(cpu);
	interp_step(cpu);
	atomic_store(&cpu->request, REQ_INTERRUPT);
	interp_step(cpu);
	/* One page is done; the instruction is still the same. */
	assert_int_equal(cpu->gpr[1], 2 * 4096);
	assert_int_equal(cpu->gpr[7], DATA + 4096);
	assert_int_equal(cpu->rip, CODE + 6);
	run_to_halt(cpu);
	assert_int_equal(cpu->gpr[1], 0);
	rig_fini(&r);
}

/* The destination ends in a page that is not mapped: what came before it is done, registers say so. */
static void a_string_faults(void **state)
{
	static const uint8_t code[] = {0xf3, 0xaa}; /* rep stosb */
	struct rig r;
	struct soft_cpu *cpu;

	boot(&r, code, sizeof(code));
	cpu = r.cpu[0];
	cpu->gpr[7] = 0x200000 - 10;
	cpu->gpr[1] = 20;
	if (setjmp(cpu->unwind) == 0) {
		interp_step(cpu);
		fail();
	}
	assert_int_equal(cpu->fault.vector, VEC_PF);
	assert_int_equal(cpu->fault.address, 0x200000);
	assert_int_equal(cpu->fault.error, PF_W);
	assert_int_equal(cpu->rip, CODE);
	assert_int_equal(cpu->gpr[1], 10);
	assert_int_equal(cpu->gpr[7], 0x200000);
	rig_fini(&r);
}

/* --- interrupts --- */

static void sti_shadows_one_instruction(void **state)
{
	static const uint8_t code[] = {0xfb, 0x90, 0xfb, 0xf4}; /* sti; nop; sti; hlt */
	struct rig r;
	struct soft_cpu *cpu;

	boot(&r, code, sizeof(code));
	cpu = r.cpu[0];
	cpu->waiting = true;
	assert_true(interp_run(cpu));
	/* Somebody waits: the loop is left right behind STI, and the shadow is there. */
	assert_int_equal(cpu->rip, CODE + 1);
	assert_true(cpu->shadow);
	assert_true(cpu->rflags & RF_IF);
	cpu->waiting = false;
	atomic_store(&cpu->request, 0);
	assert_true(interp_run(cpu));
	assert_int_equal(cpu->mp_state, X86_MP_HALTED);
	assert_int_equal(cpu->rip, CODE + 4);
	/* A second STI makes no shadow. */
	assert_false(cpu->shadow);
	rig_fini(&r);
}

static void user_code_keeps_its_hands_off(void **state)
{
	static const uint8_t codes[][2] = {{0xf4}, {0xfa}, {0xfb}, {0xec}, {0xee}, {0xcd, 0x80}};

	for (unsigned i = 0; i < sizeof(codes) / sizeof(codes[0]); i++) {
		struct rig r;
		struct soft_cpu *cpu;

		boot(&r, codes[i], sizeof(codes[i]));
		cpu = r.cpu[0];
		cpu->seg[SEG_SS].attr |= 3 << 5;
		cpu->seg[SEG_CS].attr |= 3 << 5;
		cpu->tr.attr = 0; /* no bitmap of ports */
		cpu_mode_changed(cpu);
		if (setjmp(cpu->unwind) == 0) {
			interp_step(cpu);
			fail_msg("%02x", codes[i][0]);
		}
		assert_int_equal(cpu->fault.vector, VEC_GP);
		assert_int_equal(cpu->rip, CODE);
		rig_fini(&r);
	}
}

/* --- other modes --- */

static void real_mode_adds_in_decimal(void **state)
{
	const struct x86_boot_regs regs = {.mode = X86_BOOT_REAL,
					   .rip = 0x100,
					   .real_cs = 0x1000,
					   .rsp = 0x400};
	const uint8_t numbers[] = {0x19, 0x28, 0x35, 0x16};
	struct error err = ERROR_INIT;
	struct rig r;

	rig_init(&r, 1);
	gmem_write(r.mem, 0x10100, payload_real, (size_t)(payload_real_end - payload_real));
	gmem_write(r.mem, 0x20300, numbers, sizeof(numbers));
	assert_int_equal(accel_vcpu_set_boot(&r.cpu[0]->base, &regs, &err), 0);
	r.cpu[0]->seg[SEG_ES].selector = 0x2000;
	r.cpu[0]->seg[SEG_ES].base = 0x20000;
	run_to_halt(r.cpu[0]);
	assert_int_equal(r.cpu[0]->gpr[0] & 0xffff, 0x98);
	assert_int_equal(r.cpu[0]->gpr[2] & 0xffff, 0x98);
	assert_int_equal(r.cpu[0]->gpr[4] & 0xffff, 0x400);
	rig_fini(&r);
}

/* 32-bit instructions with results from the SDM's own examples and definitions. */
static const struct {
	uint8_t code[4];
	uint32_t ax, flags; /* before */
	uint32_t want_ax, want_flags;
	uint32_t mask; /* of flags that are defined */
} decimals[] = {
	/* DAA: 79h + 35h = AEh becomes 114; DAS: 35h - 47h = EEh becomes 88 with a borrow */
	{{0x27}, 0xae, 0, 0x14, RF_CF | RF_AF | RF_PF, RF_STATUS & ~RF_OF},
	{{0x27}, 0x2e, 0, 0x34, RF_AF, RF_STATUS & ~RF_OF},
	{{0x27}, 0x12, 0, 0x12, RF_PF, RF_STATUS & ~RF_OF},
	{{0x27}, 0x9a, 0, 0x00, RF_CF | RF_AF | RF_ZF | RF_PF, RF_STATUS & ~RF_OF},
	{{0x27}, 0x01, RF_CF | RF_AF, 0x67, RF_CF | RF_AF, RF_STATUS & ~RF_OF},
	{{0x2f}, 0xee, RF_CF | RF_AF, 0x88, RF_CF | RF_AF | RF_SF | RF_PF, RF_STATUS & ~RF_OF},
	{{0x2f}, 0x03, RF_AF, 0xfd, RF_CF | RF_AF | RF_SF, RF_STATUS & ~RF_OF},
	{{0x2f}, 0x45, 0, 0x45, 0, RF_STATUS & ~RF_OF},
	/* AAA, AAS */
	{{0x37}, 0x000b, 0, 0x0101, RF_CF | RF_AF, RF_CF | RF_AF},
	{{0x37}, 0x0005, 0, 0x0005, 0, RF_CF | RF_AF},
	{{0x37}, 0x00fa, 0, 0x0200, RF_CF | RF_AF, RF_CF | RF_AF},
	{{0x3f}, 0x02ff, 0, 0x0109, RF_CF | RF_AF, RF_CF | RF_AF},
	{{0x3f}, 0x0003, RF_AF, 0xfe0d, RF_CF | RF_AF, RF_CF | RF_AF},
	/* AAM, AAD, in any base */
	{{0xd4, 10}, 63, 0, 0x0603, RF_PF, RF_SF | RF_ZF | RF_PF},
	{{0xd4, 16}, 0xf0, 0, 0x0f00, RF_ZF | RF_PF, RF_SF | RF_ZF | RF_PF},
	{{0xd5, 10}, 0x0603, 0, 63, RF_PF, RF_SF | RF_ZF | RF_PF},
	{{0xd5, 10}, 0xffff, 0, 0xf5, RF_SF | RF_PF, RF_SF | RF_ZF | RF_PF},
	/* SALC */
	{{0xd6}, 0x1234, RF_CF, 0x12ff, RF_CF, RF_CF},
	{{0xd6}, 0x1234, 0, 0x1200, 0, RF_CF},
	/* INC and DEC of one byte */
	{{0x40}, 0x7fffffff, RF_CF, 0x80000000, RF_CF | RF_OF | RF_SF | RF_AF | RF_PF, RF_STATUS},
	{{0x66, 0x48}, 0x10000, 0, 0x1ffff, RF_SF | RF_AF | RF_PF, RF_STATUS},
};

static void boot_32(struct rig *r)
{
	const struct x86_boot_regs regs = {.mode = X86_BOOT_PROTECTED32,
					   .rip = CODE,
					   .rsp = STACK,
					   .cs_selector = 8,
					   .ds_selector = 16,
					   .tss_selector = 24};
	struct error err = ERROR_INIT;

	rig_init(r, 1);
	assert_int_equal(accel_vcpu_set_boot(&r->cpu[0]->base, &regs, &err), 0);
}

static void instructions_of_32_bit_mode(void **state)
{
	struct rig r;
	struct soft_cpu *cpu;

	boot_32(&r);
	cpu = r.cpu[0];
	if (setjmp(cpu->unwind) != 0)
		fail_msg("vector %d", cpu->fault.vector);
	for (volatile unsigned i = 0; i < sizeof(decimals) / sizeof(decimals[0]); i++) {
		gmem_write(r.mem, CODE, decimals[i].code, sizeof(decimals[i].code));
		cpu->rip = CODE;
		cpu->gpr[0] = decimals[i].ax;
		cpu_set_rflags(cpu, decimals[i].flags | RF_ONE);
		interp_step(cpu);
		if (cpu->gpr[0] != decimals[i].want_ax ||
		    ((cpu_get_rflags(cpu) ^ decimals[i].want_flags) & decimals[i].mask))
			fail_msg("row %u, %02x: eax %llx, flags %llx", i, decimals[i].code[0],
				 (unsigned long long)cpu->gpr[0],
				 (unsigned long long)cpu_get_rflags(cpu));
	}
	rig_fini(&r);
}

static void pusha_and_popa(void **state)
{
	static const uint8_t code[] = {0x60, 0x61, 0xf4};
	struct rig r;
	struct soft_cpu *cpu;
	const uint32_t *stack;

	boot_32(&r);
	cpu = r.cpu[0];
	gmem_write(r.mem, CODE, code, sizeof(code));
	for (unsigned i = 0; i < 8; i++)
		if (i != 4)
			cpu->gpr[i] = 0x11111111u * (i + 1);
	if (setjmp(cpu->unwind) != 0)
		fail_msg("vector %d", cpu->fault.vector);
	interp_step(cpu);
	assert_int_equal(cpu->gpr[4], STACK - 32);
	stack = gmem_ptr(r.mem, STACK - 32, 32);
	for (unsigned i = 0; i < 8; i++)
		assert_int_equal(stack[7 - i], i == 4 ? STACK : 0x11111111u * (i + 1));
	for (unsigned i = 0; i < 8; i++)
		if (i != 4)
			cpu->gpr[i] = 0;
	interp_step(cpu);
	for (unsigned i = 0; i < 8; i++)
		assert_int_equal(cpu->gpr[i], i == 4 ? STACK : 0x11111111u * (i + 1));
	rig_fini(&r);
}

static void division_raises(void **state)
{
	/* div %ecx; idiv %ecx; idiv %rcx */
	static const struct {
		uint8_t code[3];
		uint64_t rax, rdx, rcx;
	} bad[] = {
		{{0xf7, 0xf1}, 1, 0, 0},
		{{0xf7, 0xf1}, 0, 2, 2},
		{{0xf7, 0xf9}, 0x80000000, 0xffffffff, 0xffffffff},
		{{0xf7, 0xf9}, 0, 0x40000000, 0x7fffffff},
		{{0x48, 0xf7, 0xf9}, 0, 1ULL << 63, ~0ULL},
		{{0x48, 0xf7, 0xf9}, 1ULL << 63, ~0ULL, ~0ULL},
		{{0xf6, 0xf1}, 0x100, 0, 1},
	};

	for (volatile unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct rig r;
		struct soft_cpu *cpu;

		boot(&r, bad[i].code, sizeof(bad[i].code));
		cpu = r.cpu[0];
		cpu->gpr[0] = bad[i].rax;
		cpu->gpr[2] = bad[i].rdx;
		cpu->gpr[1] = bad[i].rcx;
		if (setjmp(cpu->unwind) == 0) {
			interp_step(cpu);
			fail_msg("row %u did not raise", i);
		}
		assert_int_equal(cpu->fault.vector, VEC_DE);
		assert_int_equal(cpu->gpr[0], bad[i].rax);
		rig_fini(&r);
	}
}

static uint64_t thread_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static void how_fast(void **state)
{
	struct rig r;
	uint64_t ns;

	if (!getenv("INTERP_BENCH"))
		skip();
	boot(&r, CODE_OF(mix));
	r.cpu[0]->gpr[1] = 5000000;
	ns = thread_ns();
	run_to_halt(r.cpu[0]);
	ns = thread_ns() - ns;
	print_message("%llu instructions, %.0f million a second\n",
		      (unsigned long long)interp_count(r.cpu[0]),
		      1e3 * (double)interp_count(r.cpu[0]) / (double)ns);
	rig_fini(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_loop_computes),
		cmocka_unit_test(code_that_changes_itself),
		cmocka_unit_test(a_device_changes_code),
		cmocka_unit_test(another_processor_changes_code),
		cmocka_unit_test(another_processor_changes_translated_code),
		cmocka_unit_test(across_a_page),
		cmocka_unit_test(strings_cross_pages),
		cmocka_unit_test(a_string_is_interrupted),
		cmocka_unit_test(a_string_faults),
		cmocka_unit_test(sti_shadows_one_instruction),
		cmocka_unit_test(user_code_keeps_its_hands_off),
		cmocka_unit_test(real_mode_adds_in_decimal),
		cmocka_unit_test(instructions_of_32_bit_mode),
		cmocka_unit_test(pusha_and_popa),
		cmocka_unit_test(division_raises),
		cmocka_unit_test(how_fast),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
