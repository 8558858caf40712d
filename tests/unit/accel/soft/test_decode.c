/* The decoder against Zydis: the C library's code as this process has it, and random encodings in three modes. And the rules of prefixes,
 * one by one. */
#include "unit/test.h"

#include <Zydis/Zydis.h>
#include <elf.h>
#include <fnmatch.h>
#include <link.h>
#include <stdio.h>

#include "base/str.h"
#include "vm/accel/soft/isa/insn.h"

#define ALL_FEATURES (~(cpu_features_t)0)

/* What Zydis calls an instruction that has another name, or many, here. */
static const struct {
	const char *ours, *theirs;
} aliases[] = {
	{"jcc", "j*"},
	{"cmovcc", "cmov*"},
	{"setcc", "set*"},
	{"jcxz", "j*cxz"},
	{"cbw", "c*"},
	{"cwd", "c*"},
	{"pusha", "pusha*"},
	{"popa", "popa*"},
	{"pushf", "pushf*"},
	{"popf", "popf*"},
	{"iret", "iret*"},
	{"retf", "ret"},
	{"movs", "movs?"},
	{"cmps", "cmps?"},
	{"stos", "stos?"},
	{"lods", "lods?"},
	{"scas", "scas?"},
	{"ins", "ins?"},
	{"outs", "outs?"},
	{"wbinvd", "wb*nvd"},
	{"cmpxchg8b", "cmpxchg8b"},
	{"prefetchw", "*"},
	{"nop", "*"},
	{"sysret", "sysret*"},
	{"movd", "movq"},
	{"*pinsrd", "*pinsrq"},
	{"*pextrd", "*pextrq"},
	{"fstp1", "fstpnce"},
	{"fndisi", "fdisi8087_nop"},
	{"fneni", "feni8087_nop"},
	{"fnsetpm", "fsetpm287_nop"},
	{"fxsave", "fxsave64"},
	{"fxrstor", "fxrstor64"},
	{"xsave*", "xsave*64"},
	{"xrstor", "xrstor64"},
	{"vmovd", "vmovq"},
};

static bool same_name(const char *ours, const char *theirs)
{
	if (strcmp(ours, theirs) == 0)
		return true;
	/* The x87's second encodings have a number here. */
	if (ours[0] == 'f' && theirs[0] == 'f' && strncmp(ours, theirs, strlen(theirs)) == 0)
		return true;
	for (size_t i = 0; i < sizeof(aliases) / sizeof(aliases[0]); i++)
		if (fnmatch(aliases[i].ours, ours, 0) == 0 &&
		    fnmatch(aliases[i].theirs, theirs, 0) == 0)
			return true;
	return false;
}

/* Extensions that are shown to no guest: their encodings are no instructions, or hints. */
static bool is_elsewhere(ZydisISAExt ext)
{
	switch (ext) {
	case ZYDIS_ISA_EXT_AMD3DNOW:
	case ZYDIS_ISA_EXT_AMD_INVLPGB:
	case ZYDIS_ISA_EXT_AMX_BF16:
	case ZYDIS_ISA_EXT_AMX_INT8:
	case ZYDIS_ISA_EXT_AMX_TILE:
	case ZYDIS_ISA_EXT_AVX512EVEX:
	case ZYDIS_ISA_EXT_AVX512VEX:
	case ZYDIS_ISA_EXT_AVX_VNNI:
	case ZYDIS_ISA_EXT_CET:
	case ZYDIS_ISA_EXT_CLDEMOTE:
	case ZYDIS_ISA_EXT_ENQCMD:
	case ZYDIS_ISA_EXT_FMA4:
	case ZYDIS_ISA_EXT_GFNI:
	case ZYDIS_ISA_EXT_HRESET:
	case ZYDIS_ISA_EXT_KEYLOCKER:
	case ZYDIS_ISA_EXT_KEYLOCKER_WIDE:
	case ZYDIS_ISA_EXT_KNC:
	case ZYDIS_ISA_EXT_KNCE:
	case ZYDIS_ISA_EXT_KNCV:
	case ZYDIS_ISA_EXT_MCOMMIT:
	case ZYDIS_ISA_EXT_MONITORX:
	case ZYDIS_ISA_EXT_MOVDIR:
	case ZYDIS_ISA_EXT_MPX:
	case ZYDIS_ISA_EXT_PADLOCK:
	case ZYDIS_ISA_EXT_PCONFIG:
	case ZYDIS_ISA_EXT_PKU:
	case ZYDIS_ISA_EXT_PREFETCHWT1:
	case ZYDIS_ISA_EXT_PT:
	case ZYDIS_ISA_EXT_RDPRU:
	case ZYDIS_ISA_EXT_RTM:
	case ZYDIS_ISA_EXT_SGX:
	case ZYDIS_ISA_EXT_SGX_ENCLV:
	case ZYDIS_ISA_EXT_SMX:
	case ZYDIS_ISA_EXT_SNP:
	case ZYDIS_ISA_EXT_SSE4A:
	case ZYDIS_ISA_EXT_SVM:
	case ZYDIS_ISA_EXT_TBM:
	case ZYDIS_ISA_EXT_TDX:
	case ZYDIS_ISA_EXT_TSX_LDTRK:
	case ZYDIS_ISA_EXT_UINTR:
	case ZYDIS_ISA_EXT_VAES:
	case ZYDIS_ISA_EXT_VMFUNC:
	case ZYDIS_ISA_EXT_VPCLMULQDQ:
	case ZYDIS_ISA_EXT_VTX:
	case ZYDIS_ISA_EXT_WAITPKG:
	case ZYDIS_ISA_EXT_XOP:
	case ZYDIS_ISA_EXT_XSAVES:
		return true;
	default:
		return false;
	}
}

/* A register of Zydis as kind and number. */
static bool same_register(const struct insn_operand *ours, ZydisRegister reg)
{
	ZyanI8 id = ZydisRegisterGetId(reg);

	switch (ZydisRegisterGetClass(reg)) {
	case ZYDIS_REGCLASS_GPR8:
		if (reg >= ZYDIS_REGISTER_AH && reg <= ZYDIS_REGISTER_BH)
			return ours->kind == OPND_GPR_HIGH && ours->reg == reg - ZYDIS_REGISTER_AH;
		if (reg >= ZYDIS_REGISTER_SPL)
			return ours->kind == OPND_GPR && ours->size == 1 &&
			       ours->reg == reg - ZYDIS_REGISTER_SPL + 4;
		return ours->kind == OPND_GPR && ours->size == 1 &&
		       ours->reg == reg - ZYDIS_REGISTER_AL;
	case ZYDIS_REGCLASS_GPR16:
		return ours->kind == OPND_GPR && ours->size == 2 && ours->reg == id;
	case ZYDIS_REGCLASS_GPR32:
		return ours->kind == OPND_GPR && ours->size == 4 && ours->reg == id;
	case ZYDIS_REGCLASS_GPR64:
		return ours->kind == OPND_GPR && ours->size == 8 && ours->reg == id;
	case ZYDIS_REGCLASS_X87:
		return ours->kind == OPND_ST && ours->reg == id;
	case ZYDIS_REGCLASS_MMX:
		return ours->kind == OPND_MMX && ours->reg == id;
	case ZYDIS_REGCLASS_XMM:
		/* Where one operand is half as wide as the others, the wider name may stand here. */
		return ours->kind == OPND_VEC && ours->reg == id;
	case ZYDIS_REGCLASS_YMM:
		return ours->kind == OPND_VEC && ours->size == 32 && ours->reg == id;
	case ZYDIS_REGCLASS_SEGMENT:
		return ours->kind == OPND_SEG && ours->reg == id;
	case ZYDIS_REGCLASS_CONTROL:
		return ours->kind == OPND_CR && ours->reg == id;
	case ZYDIS_REGCLASS_DEBUG:
		return ours->kind == OPND_DR && ours->reg == id;
	default:
		return false;
	}
}

static uint8_t address_register(ZydisRegister reg)
{
	if (reg == ZYDIS_REGISTER_NONE)
		return INSN_REG_NONE;
	if (reg == ZYDIS_REGISTER_RIP || reg == ZYDIS_REGISTER_EIP)
		return INSN_REG_RIP;
	return (uint8_t)ZydisRegisterGetId(reg);
}

static bool same_memory(const struct insn *ours, const struct insn_operand *operand,
			const ZydisDecodedOperand *theirs)
{
	uint64_t mask = ours->addrsize == 8 ? ~0ull : (1ull << ours->addrsize * 8) - 1;

	if (operand->kind != OPND_MEM || ours->base != address_register(theirs->mem.base) ||
	    ours->index != address_register(theirs->mem.index))
		return false;
	if (ours->index != INSN_REG_NONE && theirs->mem.scale && ours->scale != theirs->mem.scale)
		return false;
	if (((uint64_t)ours->disp & mask) !=
	    ((theirs->mem.disp.has_displacement ? (uint64_t)theirs->mem.disp.value : 0) & mask))
		return false;
	if (operand->size && theirs->mem.type != ZYDIS_MEMOP_TYPE_AGEN &&
	    operand->size * 8 != theirs->size)
		return false;
	return theirs->mem.type == ZYDIS_MEMOP_TYPE_AGEN ||
	       ours->seg == (uint8_t)ZydisRegisterGetId(theirs->mem.segment);
}

static bool same_operand(const struct insn *ours, const struct insn_operand *operand,
			 const ZydisDecodedOperand *theirs)
{
	unsigned size = operand->size ? operand->size : 8;
	uint64_t mask = size >= 8 ? ~0ull : (1ull << size * 8) - 1;

	switch (theirs->type) {
	case ZYDIS_OPERAND_TYPE_REGISTER:
		return same_register(operand, theirs->reg.value);
	case ZYDIS_OPERAND_TYPE_MEMORY:
		return same_memory(ours, operand, theirs);
	case ZYDIS_OPERAND_TYPE_POINTER:
		return operand->kind == OPND_FAR && ours->imm2 == theirs->ptr.segment &&
		       ours->imm == theirs->ptr.offset;
	default:
		if (operand->kind == OPND_ONE)
			return theirs->imm.value.u == 1;
		if (operand->kind == OPND_REL)
			return theirs->imm.is_relative && (int64_t)ours->imm == theirs->imm.value.s;
		return operand->kind == OPND_IMM &&
		       (((ours->imm ^ theirs->imm.value.u) & mask) == 0 ||
			((ours->imm2 ^ theirs->imm.value.u) & mask) == 0);
	}
}

/* Where Zydis 4.0 has operands that are not the SDM's. */
static bool is_known_difference(const struct insn *ours, const ZydisDecodedInstruction *theirs)
{
	/* A narrower register than here, where the rest of it does not matter. */
	if (theirs->mnemonic == ZYDIS_MNEMONIC_MOVMSKPS ||
	    theirs->mnemonic == ZYDIS_MNEMONIC_MOVMSKPD)
		return true;
	switch (ours->op) {
	case OP_CLZERO: /* lists rax */
	case OP_LSL:    /* never 64 bits */
		return true;
	case OP_MOVSX: /* reads 4 bytes for 2 */
		return theirs->mnemonic == ZYDIS_MNEMONIC_MOVSXD && ours->opsize == 2;
	default:
		/* A NOTRACK prefix is no segment override there; REX.B brings back a base that SIB says is none. */
		return theirs->attributes & ZYDIS_ATTRIB_HAS_NOTRACK ||
		       (theirs->raw.modrm.mod == 0 && theirs->raw.modrm.rm == 4 &&
			theirs->raw.sib.base == 5 && theirs->raw.rex.B);
	}
}

/* ST0, where an instruction always has it, is an operand or not. */
static const char *compare_x87(const struct insn *ours, const ZydisDecodedInstruction *theirs,
			       const ZydisDecodedOperand *operands)
{
	const struct insn_operand *memory = ours->operand;

	while (memory < &ours->operand[ours->n_operands] && memory->kind != OPND_MEM)
		memory++;
	for (unsigned i = 0; i < theirs->operand_count_visible; i++)
		if (operands[i].type == ZYDIS_OPERAND_TYPE_MEMORY &&
		    (memory == &ours->operand[ours->n_operands] ||
		     !same_operand(ours, memory, &operands[i])))
			return "x87 operand";
	return NULL;
}

/* Whether what both call an instruction is the same one. */
static const char *compare(const struct insn *ours, const ZydisDecodedInstruction *theirs,
			   const ZydisDecodedOperand *operands)
{
	unsigned n = theirs->operand_count_visible;

	if (ours->length != theirs->length)
		return "length";
	/* The processor exchanges, whatever F3 says. */
	if (ours->op == OP_XCHG && theirs->mnemonic == ZYDIS_MNEMONIC_PAUSE)
		return NULL;
	if (!same_name(ours->form->name, ZydisMnemonicGetString(theirs->mnemonic)))
		return "name";
	if (ours->op == OP_NOP || ours->op == OP_UD0 || ours->op == OP_UD1)
		return NULL;
	if (is_known_difference(ours, theirs))
		return NULL;
	if (ours->form->attrs & FORM_X87)
		return compare_x87(ours, theirs, operands);
	/* Registers that are always the same ones may be operands or not. */
	if (ours->n_operands < n && operands[ours->n_operands].type != ZYDIS_OPERAND_TYPE_REGISTER)
		return "number of operands";
	if (ours->n_operands > n && ours->operand[n].kind != OPND_VEC)
		return "number of operands";
	for (unsigned i = 0; i < n && i < ours->n_operands; i++)
		if (!same_operand(ours, &ours->operand[i], &operands[i]))
			return "operand";
	return NULL;
}

/* --- both decoders on the same bytes --- */

struct judge {
	ZydisDecoder zydis;
	enum insn_mode mode;
	unsigned n, n_same, n_bad;
	unsigned *coverage; /* by form */
};

static const ZydisMachineMode machine_modes[] = {ZYDIS_MACHINE_MODE_LEGACY_16,
						 ZYDIS_MACHINE_MODE_LEGACY_32,
						 ZYDIS_MACHINE_MODE_LONG_64};
static const ZydisStackWidth stack_widths[] = {ZYDIS_STACK_WIDTH_16, ZYDIS_STACK_WIDTH_32,
					       ZYDIS_STACK_WIDTH_64};

static void judge_init(struct judge *judge, enum insn_mode mode)
{
	*judge = (struct judge){.mode = mode};
	assert_true(ZYAN_SUCCESS(
		ZydisDecoderInit(&judge->zydis, machine_modes[mode], stack_widths[mode])));
	judge->coverage = calloc(insn_n_forms, sizeof(*judge->coverage));
	assert_non_null(judge->coverage);
}

static void judge_fini(struct judge *judge)
{
	free(judge->coverage);
}

static void complain(struct judge *judge, const uint8_t *bytes, const char *what,
		     const struct insn *ours, const char *theirs)
{
	char text[64];
	size_t at = 0;

	judge->n_bad++;
	if (judge->n_bad > 40)
		return;
	for (unsigned i = 0; i < INSN_MAX_BYTES; i++)
		at += (size_t)snprintf(text + at, sizeof(text) - at, "%02x ", bytes[i]);
	print_error("mode %d, %s: %s: here \"%s\" (%s, %u bytes), Zydis \"%s\"\n", judge->mode,
		    text, what, ours->form->name, ours->form->where, ours->length, theirs);
}

/* The reasons for which this decoder may refuse what Zydis takes, and the other way round. */
static bool may_differ(const struct insn *ours, bool our_ok, const ZydisDecodedInstruction *theirs,
		       bool their_ok)
{
	if (their_ok && !our_ok)
		/* For the processor, 0F 0D with a register and VPEXTRQ outside of 64-bit mode are no instructions. */
		return theirs->mnemonic == ZYDIS_MNEMONIC_RSM ||
		       theirs->mnemonic == ZYDIS_MNEMONIC_VPEXTRD ||
		       (theirs->mnemonic == ZYDIS_MNEMONIC_NOP && ours->opcode == 0x0d) ||
		       is_elsewhere(theirs->meta.isa_ext);
	/* A gather whose registers are not all different is refused when it is executed. */
	return ours->op == OP_NOP || fnmatch("v*gather*", ours->form->name, 0) == 0;
}

/* Returns how many bytes to go on by. */
static unsigned judge_bytes(struct judge *judge, const uint8_t bytes[INSN_MAX_BYTES])
{
	ZydisDecodedInstruction theirs;
	ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
	struct insn ours;
	enum insn_status status =
		insn_decode(bytes, INSN_MAX_BYTES, judge->mode, true, ALL_FEATURES, &ours);
	bool their_ok = ZYAN_SUCCESS(
		ZydisDecoderDecodeFull(&judge->zydis, bytes, INSN_MAX_BYTES, &theirs, operands));
	const char *theirs_name = their_ok ? ZydisMnemonicGetString(theirs.mnemonic) : "(bad)";

	judge->n++;
	if (their_ok != (status == INSN_OK)) {
		if (!may_differ(&ours, status == INSN_OK, &theirs, their_ok))
			complain(judge, bytes, "is it an instruction", &ours, theirs_name);
	} else if (their_ok) {
		const char *why = compare(&ours, &theirs, operands);

		if (why)
			complain(judge, bytes, why, &ours, theirs_name);
		else
			judge->n_same++;
		judge->coverage[ours.form->id]++;
	}
	return their_ok ? theirs.length : 1;
}

/* --- what is decoded --- */

static int walk_library(struct dl_phdr_info *info, size_t size, void *opaque)
{
	struct judge *judge = opaque;

	if (!strstr(info->dlpi_name, "libc.so"))
		return 0;
	for (unsigned i = 0; i < info->dlpi_phnum; i++) {
		const uint8_t *at =
			(const uint8_t *)(uintptr_t)(info->dlpi_addr + info->dlpi_phdr[i].p_vaddr);
		const uint8_t *end = at + info->dlpi_phdr[i].p_filesz;

		if (info->dlpi_phdr[i].p_type != PT_LOAD || !(info->dlpi_phdr[i].p_flags & PF_X))
			continue;
		while (end - at >= INSN_MAX_BYTES)
			at += judge_bytes(judge, at);
	}
	return 1;
}

static void decodes_the_c_library(void **state)
{
	struct judge judge;

	judge_init(&judge, INSN_MODE_64);
	dl_iterate_phdr(walk_library, &judge);
	print_message("%u instructions, %u alike\n", judge.n, judge.n_same);
	judge_fini(&judge);
	assert_true(judge.n > 100000);
	assert_int_equal(judge.n_bad, 0);
}

static uint64_t next_random(uint64_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 7;
	*seed ^= *seed << 17;
	return *seed;
}

/* Prefixes, an opcode of some map, random bytes behind it. */
static void make_encoding(uint64_t *seed, uint8_t bytes[INSN_MAX_BYTES])
{
	static const uint8_t prefixes[] = {0x66, 0x66, 0xf2, 0xf3, 0x67, 0x48, 0x41, 0x4c,
					   0x44, 0x40, 0xf0, 0x2e, 0x36, 0x65, 0x64, 0x26};
	uint64_t choice = next_random(seed);
	unsigned at = 0, n_prefixes = (choice & 7) > 4 ? choice >> 4 & 3 : choice & 1;

	for (unsigned i = 0; i < INSN_MAX_BYTES; i++)
		bytes[i] = (uint8_t)(next_random(seed) >> 24);
	for (; at < n_prefixes; at++)
		bytes[at] = prefixes[next_random(seed) >> 20 & 15];
	switch (choice >> 8 & 7) {
	case 0:
	case 1:
	case 2:
		bytes[at] = 0x0f;
		break;
	case 3:
		bytes[at++] = 0x0f;
		bytes[at] = choice & 0x10000 ? 0x38 : 0x3a;
		break;
	case 4:
		bytes[at] = choice & 0x10000 ? 0xc4 : 0xc5;
		if (bytes[at++] == 0xc4) /* of the maps there are */
			bytes[at] = (bytes[at] & 0xe0) | (1 + (choice >> 20) % 3);
		break;
	default:
		break;
	}
}

static void decode_random(enum insn_mode mode, uint64_t seed)
{
	struct judge judge;
	const char *wanted = getenv("DECODE_TESTS");
	uint32_t n = 300000;
	unsigned n_forms = 0;

	if (wanted)
		assert_int_equal(parse_u32_range(wanted, 1, UINT32_MAX, &n), 0);
	judge_init(&judge, mode);
	for (uint32_t i = 0; i < n; i++) {
		uint8_t bytes[INSN_MAX_BYTES];

		make_encoding(&seed, bytes);
		judge_bytes(&judge, bytes);
	}
	for (size_t i = 1; i < insn_n_forms; i++) {
		n_forms += judge.coverage[i] != 0;
		if (!judge.coverage[i] && wanted)
			print_message("never seen: %s (%s)\n", insn_forms[i].name,
				      insn_forms[i].where);
	}
	print_message("mode %d: %u encodings, %u alike, %u of %zu forms\n", mode, judge.n,
		      judge.n_same, n_forms, insn_n_forms - 1);
	judge_fini(&judge);
	assert_int_equal(judge.n_bad, 0);
}

static void decodes_random_16(void **state)
{
	decode_random(INSN_MODE_16, 0x9e3779b97f4a7c15);
}

static void decodes_random_32(void **state)
{
	decode_random(INSN_MODE_32, 0xbf58476d1ce4e5b9);
}

static void decodes_random_64(void **state)
{
	decode_random(INSN_MODE_64, 0x94d049bb133111eb);
}

/* --- single rules --- */

static enum insn_status decode(const char *bytes, size_t n, enum insn_mode mode, struct insn *ret)
{
	return insn_decode((const uint8_t *)bytes, n, mode, true, ALL_FEATURES, ret);
}
#define DECODE(bytes, mode, ret) decode(bytes, sizeof(bytes) - 1, mode, ret)

static void rex_counts_only_when_last(void **state)
{
	struct insn insn;

	assert_int_equal(DECODE("\x48\x66\x89\xc8", INSN_MODE_64, &insn), INSN_OK);
	assert_int_equal(insn.opsize, 2);
	assert_false(insn.has_rex);
	assert_int_equal(DECODE("\x66\x48\x89\xc8", INSN_MODE_64, &insn), INSN_OK);
	assert_int_equal(insn.opsize, 8);
}

static void length_is_limited(void **state)
{
	struct insn insn;

	assert_int_equal(DECODE("\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x90",
				INSN_MODE_64, &insn),
			 INSN_OK);
	assert_int_equal(insn.length, 15);
	assert_int_equal(DECODE("\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x90",
				INSN_MODE_64, &insn),
			 INSN_LONG);
	assert_int_equal(
		DECODE("\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x81\xc0\x00\x00",
		       INSN_MODE_64, &insn),
		INSN_LONG);
}

static void every_cut_is_short(void **state)
{
	static const char whole[] = "\xf0\x48\x81\x84\xc8\x78\x56\x34\x12\xef\xbe\xad\xde";
	struct insn insn;

	for (size_t n = 0; n < sizeof(whole) - 1; n++)
		assert_int_equal(decode(whole, n, INSN_MODE_64, &insn), INSN_SHORT);
	assert_int_equal(decode(whole, sizeof(whole) - 1, INSN_MODE_64, &insn), INSN_OK);
	assert_int_equal(insn.length, 13);
	assert_int_equal(insn.disp, 0x12345678);
	assert_int_equal(insn.imm, 0xffffffffdeadbeef);
	assert_true(insn.lock);
}

static void lock_wants_a_memory_destination(void **state)
{
	struct insn insn;

	assert_int_equal(DECODE("\xf0\x01\xc8", INSN_MODE_64, &insn), INSN_BAD);
	assert_int_equal(DECODE("\xf0\x03\x08", INSN_MODE_64, &insn), INSN_BAD);
	assert_int_equal(DECODE("\xf0\x39\x08", INSN_MODE_64, &insn), INSN_BAD);
	assert_int_equal(DECODE("\xf0\x90", INSN_MODE_64, &insn), INSN_BAD);
	assert_int_equal(DECODE("\xf0\x01\x08", INSN_MODE_64, &insn), INSN_OK);
}

static void vex_shares_bytes_with_les(void **state)
{
	struct insn insn;

	assert_int_equal(DECODE("\xc4\x08", INSN_MODE_32, &insn), INSN_OK);
	assert_int_equal(insn.op, OP_LES);
	assert_int_equal(DECODE("\xc4\xe2\x78\xf2\xc1", INSN_MODE_32, &insn), INSN_OK);
	assert_int_equal(insn.op, OP_ANDN);
	/* Real and virtual-8086 mode know no VEX. */
	assert_int_equal(insn_decode((const uint8_t *)"\xc4\xe2\x78\xf2\xc1", 5, INSN_MODE_32,
				     false, ALL_FEATURES, &insn),
			 INSN_BAD);
	assert_int_equal(DECODE("\x66\xc4\xe2\x78\xf2\xc1", INSN_MODE_64, &insn), INSN_BAD);
	assert_int_equal(DECODE("\x48\xc4\xe2\x78\xf2\xc1", INSN_MODE_64, &insn), INSN_BAD);
	assert_int_equal(DECODE("\x64\xc4\xe2\x78\xf2\x00", INSN_MODE_64, &insn), INSN_OK);
	assert_int_equal(insn.seg, SEG_FS);
}

static void a_feature_that_is_not_shown_is_no_instruction(void **state)
{
	struct insn insn;
	cpu_features_t features =
		ALL_FEATURES & ~FEATURE_BIT(FEATURE_LZCNT) & ~FEATURE_BIT(FEATURE_POPCNT);

	/* Without LZCNT its encoding is BSR with a prefix that means nothing. */
	assert_int_equal(insn_decode((const uint8_t *)"\xf3\x0f\xbd\xc1", 4, INSN_MODE_64, true,
				     features, &insn),
			 INSN_OK);
	assert_int_equal(insn.op, OP_BSR);
	assert_int_equal(insn_decode((const uint8_t *)"\xf3\x0f\xb8\xc1", 4, INSN_MODE_64, true,
				     features, &insn),
			 INSN_BAD);
}

static void nop_and_pause_and_xchg(void **state)
{
	struct insn insn;

	assert_int_equal(DECODE("\x90", INSN_MODE_64, &insn), INSN_OK);
	assert_int_equal(insn.op, OP_NOP);
	assert_int_equal(DECODE("\xf3\x90", INSN_MODE_64, &insn), INSN_OK);
	assert_int_equal(insn.op, OP_PAUSE);
	assert_int_equal(DECODE("\x41\x90", INSN_MODE_64, &insn), INSN_OK);
	assert_int_equal(insn.op, OP_XCHG);
	assert_int_equal(insn.operand[0].reg, 8);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(decodes_the_c_library),
		cmocka_unit_test(decodes_random_16),
		cmocka_unit_test(decodes_random_32),
		cmocka_unit_test(decodes_random_64),
		cmocka_unit_test(rex_counts_only_when_last),
		cmocka_unit_test(length_is_limited),
		cmocka_unit_test(every_cut_is_short),
		cmocka_unit_test(lock_wants_a_memory_destination),
		cmocka_unit_test(vex_shares_bytes_with_les),
		cmocka_unit_test(a_feature_that_is_not_shown_is_no_instruction),
		cmocka_unit_test(nop_and_pause_and_xchg),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
