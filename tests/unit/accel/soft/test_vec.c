/* Vector instructions: thunks fit what they are given, and what control registers forbid is refused. */
#include "unit/test.h"

#include <setjmp.h>

#include "vm/accel/accel.h"
#include "vm/accel/soft/vec/vec_int.h"

#define ALL_FEATURES (~(cpu_features_t)0)

/* --- every thunk that can ever be made --- */

struct tally {
	uint8_t *seen; /* by slot */
	size_t bytes, largest;
	unsigned thunks;
};

static bool has_thunk(const struct insn *insn)
{
	return insn->op == OP_VEC || insn->op == OP_X87 || insn->op == OP_FLDCW ||
	       (insn->op >= OP_PCMPESTRM && insn->op <= OP_PCMPISTRI);
}

static void count(struct tally *tally, const uint8_t *bytes, size_t n)
{
	uint8_t code[THUNK_MAX_BYTES * 2];
	unsigned copies = 1, slot;
	struct insn insn;
	size_t length;

	if (insn_decode(bytes, n, INSN_MODE_64, true, ALL_FEATURES, &insn) != INSN_OK ||
	    !has_thunk(&insn))
		return;
	slot = vec_thunk_slot(&insn);
	assert_true(slot < insn_n_forms * THUNK_VARIANTS);
	if (tally->seen[slot])
		return;
	tally->seen[slot] = 1;
	for (unsigned i = 0; i < insn.n_operands; i++)
		if (insn.operand[i].kind == OPND_IMM)
			copies = 256;
	length = vec_emit(code, &insn);
	if (length > tally->largest)
		tally->largest = length;
	tally->bytes += copies * ((length + 15) & ~(size_t)15);
	tally->thunks += copies;
}

/* One encoding for each choice of what tells thunks apart. choice: ModRM (8 bits), prefix (2), W, L. */
static void count_opcode(struct tally *tally, unsigned map, unsigned opcode, unsigned choice)
{
	static const uint8_t prefixes[4] = {0, 0x66, 0xf3, 0xf2};
	unsigned modrm = choice & 0xff, pp = choice >> 8 & 3, w = choice >> 10 & 1,
		 l = choice >> 11;
	uint8_t bytes[INSN_MAX_BYTES] = {0};
	size_t n = 0;

	for (unsigned vvvv = 0; vvvv < 16; vvvv += 15) {
		uint8_t vex[INSN_MAX_BYTES] = {0xc4, (uint8_t)(0xe0 | map),
					       (uint8_t)(w << 7 | vvvv << 3 | l << 2 | pp),
					       (uint8_t)opcode, (uint8_t)modrm};

		count(tally, vex, sizeof(vex));
	}
	if (l)
		return;
	if (pp)
		bytes[n++] = prefixes[pp];
	if (w)
		bytes[n++] = 0x48;
	bytes[n++] = 0x0f;
	if (map > 1)
		bytes[n++] = map == 2 ? 0x38 : 0x3a;
	bytes[n++] = (uint8_t)opcode;
	bytes[n] = (uint8_t)modrm;
	count(tally, bytes, sizeof(bytes));
}

static void test_thunks_fit(void **state)
{
	struct tally tally = {calloc(insn_n_forms, THUNK_VARIANTS), 0, 0, 0};

	assert_non_null(tally.seen);
	for (unsigned map = 1; map <= 3; map++)
		for (unsigned opcode = 0; opcode < 256; opcode++)
			for (unsigned choice = 0; choice < 1 << 12; choice++)
				count_opcode(&tally, map, opcode, choice);
	for (unsigned opcode = 0xd8; opcode <= 0xdf; opcode++)
		for (unsigned modrm = 0; modrm < 256; modrm++) {
			uint8_t bytes[INSN_MAX_BYTES] = {(uint8_t)opcode, (uint8_t)modrm};

			count(&tally, bytes, sizeof(bytes));
		}
	print_message("%u thunks, %zu KiB, the largest has %zu bytes\n", tally.thunks,
		      tally.bytes >> 10, tally.largest);
	assert_true(tally.thunks > 10000);
	assert_true(tally.largest <= THUNK_MAX_BYTES);
	assert_true(tally.bytes + THUNK_MAX_BYTES <= THUNK_CODE_BYTES);
	free(tally.seen);
}

/* --- refusals: one instruction in flat protected mode without paging --- */

static struct gmem *memory;
static struct accel *accel;
static struct soft_cpu *cpu;

static int open_machine(void **state)
{
	struct gmem_config config = {.ram_bytes = 4u << 20};
	struct accel_config accel_config = {
		.kind = ACCEL_SOFT, .n_vcpus = 1, .sockets = 1, .cores = 1, .threads = 1};
	const struct gmem_region *regions;
	struct error err = ERROR_INIT;
	struct accel_vcpu *vcpu;

	if (gmem_new(&config, &memory, &err) < 0 || accel_open(&accel_config, &accel, &err) < 0)
		fail_msg("%s", err.text);
	gmem_regions(memory, &regions);
	assert_int_equal(accel_map(accel, &regions[0], &err), 0);
	assert_int_equal(accel_vcpu_new(accel, 0, &vcpu, &err), 0);
	cpu = soft_cpu_of(vcpu);
	return 0;
}

static int close_machine(void **state)
{
	accel_vcpu_free(&cpu->base);
	accel_close(accel);
	gmem_free(memory);
	return 0;
}

#define CR0_OK (CR0_PE | CR0_MP | CR0_NE | CR0_ET)
#define CR4_OK (CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE)
#define AT     0x1000u

static void set_up(void)
{
	struct soft_seg flat = {0, UINT32_MAX, 0x10, 0xc093};

	vec_cpu_reset(cpu);
	for (unsigned i = 0; i < INSN_N_SEGS; i++)
		cpu->seg[i] = flat;
	cpu->seg[SEG_CS].attr = 0xc09b;
	memset(cpu->gpr, 0, sizeof(cpu->gpr));
	cpu->gpr[3] = 0x2000; /* rbx: memory operands */
	cpu->cr0 = CR0_OK;
	cpu->cr4 = CR4_OK;
	cpu->xcr0 = 7;
	cpu->efer = 0;
	cpu->cpl = 0;
	*fpu_u16(cpu, FPU_FCW) = 0x37f;
	cpu->fpu[FPU_FTW] = 0;
}

/* The vector that the instruction raises, or -1. */
static int execute(const uint8_t *bytes, size_t n)
{
	cpu->rip = AT;
	cpu_mode_changed(cpu);
	assert_int_equal(gmem_write(memory, AT, bytes, n), 0);
	if (setjmp(cpu->unwind))
		return cpu->fault.vector;
	interp_step(cpu);
	return -1;
}
#define EXECUTE(...) execute((const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

struct refusal {
	const char *what;
	uint8_t bytes[8];
	uint64_t cr0_set, cr4_clear, xcr0;
	int vector;
};

static const struct refusal refusals[] = {
	{"addps", {0x0f, 0x58, 0xc1}, 0, 0, 7, -1},
	{"addps, TS", {0x0f, 0x58, 0xc1}, CR0_TS, 0, 7, VEC_NM},
	{"addps, EM and TS", {0x0f, 0x58, 0xc1}, CR0_EM | CR0_TS, 0, 7, VEC_UD},
	{"addps, no OSFXSR", {0x0f, 0x58, 0xc1}, 0, CR4_OSFXSR, 7, VEC_UD},
	{"movaps load, TS", {0x0f, 0x28, 0x03}, CR0_TS, 0, 7, VEC_NM},
	{"vaddps", {0xc5, 0xf0, 0x58, 0xc1}, 0, 0, 7, -1},
	{"vaddps, EM is nothing to it", {0xc5, 0xf0, 0x58, 0xc1}, CR0_EM, 0, 7, -1},
	{"vaddps, TS", {0xc5, 0xf0, 0x58, 0xc1}, CR0_TS, 0, 7, VEC_NM},
	{"vaddps, no OSXSAVE", {0xc5, 0xf0, 0x58, 0xc1}, CR0_TS, CR4_OSXSAVE, 7, VEC_UD},
	{"vaddps, no AVX in XCR0", {0xc5, 0xf0, 0x58, 0xc1}, CR0_TS, 0, 3, VEC_UD},
	{"vmovups store, no AVX", {0xc5, 0xfc, 0x11, 0x03}, 0, 0, 3, VEC_UD},
	{"paddb mm, EM", {0x0f, 0xfc, 0xc1}, CR0_EM | CR0_TS, 0, 7, VEC_UD},
	{"paddb mm, TS", {0x0f, 0xfc, 0xc1}, CR0_TS, 0, 7, VEC_NM},
	{"paddb mm, no OSFXSR", {0x0f, 0xfc, 0xc1}, 0, CR4_OSFXSR, 7, -1},
	{"fld1, TS", {0xd9, 0xe8}, CR0_TS, 0, 7, VEC_NM},
	{"fld1, EM", {0xd9, 0xe8}, CR0_EM, 0, 7, VEC_NM},
	{"fwait, TS", {0x9b}, CR0_TS, 0, 7, VEC_NM},
	{"fwait, EM", {0x9b}, CR0_EM, 0, 7, -1},
	{"fninit, TS", {0xdb, 0xe3}, CR0_TS, 0, 7, VEC_NM},
	{"fxsave, TS", {0x0f, 0xae, 0x03}, CR0_TS, 0, 7, VEC_NM},
	{"fxsave, EM", {0x0f, 0xae, 0x03}, CR0_EM, 0, 7, VEC_NM},
	{"xsave, TS", {0x0f, 0xae, 0x23}, CR0_TS, 0, 7, VEC_NM},
	{"xsave, no OSXSAVE", {0x0f, 0xae, 0x23}, CR0_TS, CR4_OSXSAVE, 7, VEC_UD},
	{"xgetbv, TS is nothing to it", {0x0f, 0x01, 0xd0}, CR0_TS, 0, 7, -1},
	{"xgetbv, no OSXSAVE", {0x0f, 0x01, 0xd0}, 0, CR4_OSXSAVE, 7, VEC_UD},
	{"ldmxcsr, TS", {0x0f, 0xae, 0x13}, CR0_TS, 0, 7, VEC_NM},
	{"ldmxcsr, EM", {0x0f, 0xae, 0x13}, CR0_EM, 0, 7, VEC_UD},
};

static bool is_hidden(const struct refusal *r)
{
	cpu_features_t f = cpu->features;

	return (r->bytes[0] == 0xc5 && !(f & FEATURE_BIT(FEATURE_AVX))) ||
	       (!strncmp(r->what, "x", 1) && !(f & FEATURE_BIT(FEATURE_XSAVE)));
}

static void test_refusals(void **state)
{
	for (size_t i = 0; i < sizeof(refusals) / sizeof(refusals[0]); i++) {
		const struct refusal *r = &refusals[i];
		int vector;

		if (is_hidden(r))
			continue;
		set_up();
		cpu->cr0 |= r->cr0_set;
		cpu->cr4 &= ~r->cr4_clear;
		cpu->xcr0 = r->xcr0;
		vector = execute(r->bytes, sizeof(r->bytes));
		if (vector != r->vector)
			fail_msg("%s: vector %d, not %d", r->what, vector, r->vector);
	}
}

/* Divides 1 by 0 in xmm0 with exceptions unmasked. */
static int divide(void)
{
	const float one = 1;

	set_up();
	memcpy(fpu_xmm(cpu, 0), &one, sizeof(one));
	*fpu_u32(cpu, FPU_MXCSR) = 0x1d80;      /* ZM clear */
	return EXECUTE(0xf3, 0x0f, 0x5e, 0xc1); /* divss xmm0, xmm1 */
}

static void test_simd_exception(void **state)
{
	float value;

	/* The test library has a handler of its own. */
	assert_int_equal(vec_trap_install(NULL), 0);
	assert_int_equal(divide(), VEC_XM);
	memcpy(&value, fpu_xmm(cpu, 0), sizeof(value));
	assert_true(value == 1);
	assert_int_equal(*fpu_u32(cpu, FPU_MXCSR), 0x1d84);
	/* Raised again though its flag is set; and #UD when the system does not know of #XM. */
	cpu->cr4 &= ~(uint64_t)CR4_OSXMMEXCPT;
	assert_int_equal(EXECUTE(0xf3, 0x0f, 0x5e, 0xc1), VEC_UD);
}

static void test_x87_exception_waits(void **state)
{
	set_up();
	*fpu_u16(cpu, FPU_FCW) = 0x37b;            /* ZM clear */
	assert_int_equal(EXECUTE(0xd9, 0xe8), -1); /* fld1 */
	assert_int_equal(EXECUTE(0xd9, 0xee), -1); /* fldz */
	assert_int_equal(EXECUTE(0xde, 0xf9), -1); /* fdivp: raises it, and goes on */
	assert_true(*fpu_u16(cpu, FPU_FSW) & FSW_ES);
	assert_int_equal(EXECUTE(0xdf, 0xe0), -1); /* fnstsw does not wait */
	assert_int_equal(EXECUTE(0x9b), VEC_MF);
	assert_int_equal(EXECUTE(0x0f, 0xfc, 0xc1), VEC_MF); /* nor does MMX go ahead */
	cpu->cr0 &= ~(uint64_t)CR0_NE;
	assert_int_equal(EXECUTE(0xd9, 0xe8), -1);
	assert_true(*fpu_u16(cpu, FPU_FSW) & FSW_ES);
}

static int xsetbv(uint64_t index, uint64_t value, uint8_t cpl)
{
	set_up();
	cpu->gpr[0] = (uint32_t)value;
	cpu->gpr[2] = value >> 32;
	cpu->gpr[1] = index;
	cpu->cpl = cpl;
	cpu->seg[SEG_SS].attr |= (uint16_t)(cpl << 5);
	cpu->seg[SEG_CS].attr |= (uint16_t)(cpl << 5);
	return EXECUTE(0x0f, 0x01, 0xd1);
}

static void test_xsetbv(void **state)
{
	bool avx = cpu->features & FEATURE_BIT(FEATURE_AVX);

	if (!(cpu->features & FEATURE_BIT(FEATURE_XSAVE)))
		skip();
	assert_int_equal(xsetbv(0, 1, 0), -1);
	assert_int_equal(cpu->xcr0, 1);
	assert_int_equal(xsetbv(0, 3, 0), -1);
	assert_int_equal(xsetbv(0, 7, 0), avx ? -1 : VEC_GP);
	assert_int_equal(xsetbv(0, 5, 0), VEC_GP);
	assert_int_equal(xsetbv(0, 2, 0), VEC_GP);
	assert_int_equal(xsetbv(0, 0, 0), VEC_GP);
	assert_int_equal(xsetbv(0, 0x27, 0), VEC_GP);
	assert_int_equal(xsetbv(0, 1ULL << 63 | 3, 0), VEC_GP);
	assert_int_equal(xsetbv(1, 3, 0), VEC_GP);
	assert_int_equal(xsetbv(0, 3, 3), VEC_GP);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_thunks_fit),     cmocka_unit_test(test_refusals),
		cmocka_unit_test(test_simd_exception), cmocka_unit_test(test_x87_exception_waits),
		cmocka_unit_test(test_xsetbv),
	};

	return cmocka_run_group_tests(tests, open_machine, close_machine);
}
