#include "jit_rig.h"

#include <stdio.h>

#include "vm/accel/soft/interp/code.h"

#define GDT         0x1000u
#define IDT         0x2000u
#define TSS         0x3000u
#define TABLES      0x8000u
#define CODE64      0x08
#define DATA        0x10
#define USER_CODE64 (0x18 | 3)
#define USER_DATA   (0x20 | 3)

static uint64_t random_state = 1;

void jr_seed(uint64_t seed)
{
	random_state = seed * 0x9e3779b97f4a7c15ULL + 1;
}

uint64_t jr_random(void)
{
	uint64_t x = random_state;

	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	random_state = x;
	return x * 0x2545f4914f6cdd1dULL;
}

static void put64(struct jr *r, gpa_t at, uint64_t value)
{
	memcpy(r->ram + at, &value, 8);
}

static void put_tables(struct jr *r)
{
	const uint64_t present = 7;

	put64(r, TABLES, (TABLES + 0x1000) | present);
	put64(r, TABLES + 0x1000, (TABLES + 0x2000) | present);
	put64(r, TABLES + 0x2000, (TABLES + 0x3000) | present);
	put64(r, TABLES + 0x2018, (TABLES + 0x4000) | present);
	for (unsigned page = 0; page < JR_RAM / 4096; page++)
		put64(r, TABLES + 0x3000 + page * 8, (uint64_t)page << 12 | present);
	for (unsigned page = 0; page < JR_CODE_PAGES; page++)
		put64(r, TABLES + 0x4000 + page * 8, (JR_CODE + page * 4096u) | present);
	put64(r, TABLES + 0x3000 + JR_READ_ONLY / 4096 * 8, JR_READ_ONLY | 5);
	put64(r, TABLES + 0x3000 + JR_ABSENT / 4096 * 8, 0);
	put64(r, TABLES + 0x3000 + JR_DEVICE / 4096 * 8, 0x20000000 | present);
}

static void put_handlers(struct jr *r)
{
	for (unsigned vector = 0; vector < 256; vector++) {
		uint64_t at = JR_HANDLERS + vector * 16;

		/* An interrupt gate with the first interrupt stack. */
		put64(r, IDT + vector * 16,
		      (at & 0xffff) | CODE64 << 16 | 1ULL << 32 | 0x8eULL << 40 |
			      (at >> 16 & 0xffff) << 48);
		put64(r, IDT + vector * 16 + 8, 0);
		r->ram[at] = 0xf4;
	}
	memset(r->ram + TSS, 0, 104);
	put64(r, TSS + 4, JR_STACK);
	put64(r, TSS + 0x24, JR_STACK);
}

void jr_init(struct jr *r, unsigned n_vcpus)
{
	struct error err = ERROR_INIT;
	size_t page;

	memset(r, 0, sizeof(*r));
	rig_init(&r->rig, n_vcpus);
	r->soft = r->rig.soft;
	r->cpu = r->rig.cpu[0];
	r->ram = soft_ram(r->soft, 0, NULL, &page);
	assert_non_null(r->ram);
	if (r->soft->jit == NULL) {
		if (jit_init(r->soft, &err) != 0)
			fail_msg("%s", err.text);
		for (unsigned n = 0; n < n_vcpus; n++)
			assert_int_equal(jit_cpu_init(r->rig.cpu[n]), 0);
		r->own_jit = true;
	}
	put_tables(r);
	put_handlers(r);
	put64(r, GDT, 0);
	put64(r, GDT + CODE64, 0x00af9b000000ffffULL);
	put64(r, GDT + DATA, 0x00cf93000000ffffULL);
	put64(r, GDT + 0x18, 0x00affb000000ffffULL);
	put64(r, GDT + 0x20, 0x00cff3000000ffffULL);
	for (unsigned n = 0; n < n_vcpus; n++)
		jr_long(r, r->rig.cpu[n], 0);
}

void jr_fini(struct jr *r)
{
	if (r->own_jit) {
		for (unsigned n = 0; n < r->rig.n; n++)
			jit_cpu_fini(r->rig.cpu[n]);
		jit_fini(r->soft);
	}
	rig_fini(&r->rig);
}

void jr_long(struct jr *r, struct soft_cpu *cpu, unsigned cpl)
{
	struct soft_seg data = {.limit = UINT32_MAX,
				.selector = cpl != 0 ? USER_DATA : DATA,
				.attr = cpl != 0 ? 0xc0f3 : 0xc093};

	r->cpl = cpl;
	cpu->mp_state = X86_MP_RUNNABLE;
	cpu->cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_PG;
	cpu->cr3 = TABLES;
	cpu->cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE;
	cpu->xcr0 = 7;
	cpu->efer = EFER_LME | EFER_LMA | EFER_NXE | EFER_SCE;
	cpu->gdt = (struct x86_table){.base = GDT, .limit = 0x7f};
	cpu->idt = (struct x86_table){.base = IDT, .limit = 0xfff};
	cpu->tr = (struct soft_seg){.base = TSS, .limit = 0x67, .selector = 0x28, .attr = 0x8b};
	for (unsigned seg = 0; seg < INSN_N_SEGS; seg++)
		cpu->seg[seg] = data;
	cpu->seg[SEG_CS] = (struct soft_seg){.limit = UINT32_MAX,
					     .selector = cpl != 0 ? USER_CODE64 : CODE64,
					     .attr = cpl != 0 ? 0xa0fb : 0xa09b};
	cpu->seg[SEG_FS].base = JR_DATA + 0x1000;
	cpu->seg[SEG_GS].base = JR_DATA + 0x2000;
	cpu->rflags = RF_ONE;
	cpu->shadow = false;
	cpu->debug = 0;
	cpu_mode_changed(cpu);
}

void jr_set_code(struct jr *r, unsigned off, const void *bytes, size_t n)
{
	memcpy(r->ram + JR_CODE + off, bytes, n);
	code_written(r->soft, r->cpu, JR_CODE + off, n);
}

void jr_load(struct jr *r, const struct jr_state *state)
{
	struct soft_cpu *cpu = r->cpu;

	jr_long(r, cpu, r->cpl);
	memcpy(cpu->gpr, state->gpr, sizeof(cpu->gpr));
	cpu->rip = cpu->next_rip = state->rip;
	cpu->rflags = state->rflags;
	cpu->status = state->status;
	memcpy(cpu->fpu, state->fpu, sizeof(cpu->fpu));
	cpu->cr2 = state->cr2;
	for (unsigned page = 0; page < JR_RAM; page += 4096) {
		if (memcmp(r->ram + page, state->ram + page, 4096) == 0)
			continue;
		memcpy(r->ram + page, state->ram + page, 4096);
		code_written(r->soft, cpu, page, 4096);
	}
	tlb_flush_all(cpu);
	atomic_store(&cpu->request, 0);
}

void jr_save(struct jr *r, struct jr_state *ret)
{
	struct soft_cpu *cpu = r->cpu;

	memcpy(ret->gpr, cpu->gpr, sizeof(ret->gpr));
	ret->rip = cpu->rip;
	ret->rflags = cpu->rflags;
	ret->status = cpu->status;
	memcpy(ret->fpu, cpu->fpu, sizeof(ret->fpu));
	ret->cr2 = cpu->cr2;
	memcpy(ret->ram, r->ram, JR_RAM);
}

static bool run(struct jr *r, bool (*fn)(struct soft_cpu *cpu))
{
	bool ok = false;

	soft_enter(r->cpu);
	for (unsigned round = 0; round < 1000; round++) {
		atomic_fetch_and(&r->cpu->request, ~REQ_SELF);
		if (!fn(r->cpu))
			break;
		if (r->cpu->mp_state == X86_MP_HALTED) {
			ok = true;
			break;
		}
	}
	soft_leave(r->cpu);
	r->cpu->mp_state = X86_MP_RUNNABLE;
	return ok;
}

bool jr_interpret(struct jr *r)
{
	return run(r, interp_run);
}

bool jr_translate(struct jr *r)
{
	return run(r, jit_run);
}
