/* Random instruction sequences with random state, executed by the interpreter and by the translator: registers, flags, vector state, memory and
 * exceptions have to agree. Also with the code memory emptied, with requests in between, and at another linear address. */
#include "jit_rig.h"

#include <stdio.h>

#include "base/str.h"

#define MAX_BYTES 200
#define MAX_INSNS 24
#define FRAME     48 /* of an exception with an error code, at most */

struct sequence {
	uint8_t bytes[MAX_BYTES + 16];
	unsigned n_bytes, n_insns;
	unsigned at[MAX_INSNS + 1];
	/* Flags that are not defined at its end, or at an exception that instruction n raises. */
	unsigned undefined[MAX_INSNS + 1];
};

/* What would leave the test, or answers differently each time. */
static bool is_wanted(const struct insn *insn)
{
	const uint32_t never = FORM_BRANCH | FORM_END | FORM_CPL0 | FORM_IO;

	if ((insn->form->attrs & never) != 0)
		return false;
	switch (insn->op) {
	case OP_RDTSC:
	case OP_RDTSCP:
	case OP_RDPID:
	case OP_RDPMC:
	case OP_RDRAND:
	case OP_RDSEED:
	case OP_CPUID:
	case OP_CLI:
	case OP_MOV_TO_SEG:
	case OP_POP_SEG:
	case OP_LFS:
	case OP_LGS:
	case OP_WRFSBASE:
	case OP_WRGSBASE:
	case OP_SWAPGS:
	case OP_VMCALL:
	case OP_VMMCALL:
	case OP_XSAVE:
	case OP_XSAVEC:
	case OP_XSAVEOPT:
	case OP_XRSTOR:
	case OP_FXRSTOR:
	case OP_FRSTOR:
	case OP_FLDENV:
	case OP_LDMXCSR: /* exceptions unmasked: another test */
	case OP_FLDCW:
	case OP_FXSAVE: /* addresses of x87 instructions */
	case OP_FNSAVE:
	case OP_FNSTENV:
		return false;
	case OP_VEC:
		/* Whether a source in memory switches to MMX depends on the processor. */
		return strncmp(insn->form->name, "cvtpi2p", 7) != 0;
	default:
		/* A string instruction of random length takes too long. */
		return insn->rep == REP_NONE || (insn->form->attrs & FORM_REP) == 0;
	}
}

/* Makes memory operands likely to hit the data pages. */
static void random_bytes(uint8_t *bytes, unsigned how)
{
	static const uint8_t common[] = {0x01, 0x03, 0x29, 0x2b, 0x31, 0x39, 0x3b, 0x89, 0x8b,
					 0x8d, 0x85, 0x83, 0x81, 0xc1, 0xd3, 0xf7, 0xff, 0x50,
					 0x58, 0x63, 0x11, 0x19, 0x21, 0x09, 0x87, 0x69, 0x6b,
					 0x88, 0x8a, 0x38, 0x3a, 0xc7, 0xb8};
	unsigned n = 0;

	for (unsigned i = 0; i < 15; i++)
		bytes[i] = (uint8_t)jr_random();
	if (jr_pick(8) == 0)
		bytes[n++] = 0x66;
	if (jr_pick(40) == 0)
		bytes[n++] = 0xf0;
	if (jr_pick(12) == 0)
		bytes[n++] = jr_pick(2) ? 0xf3 : 0xf2;
	if (jr_pick(20) == 0)
		bytes[n++] = jr_pick(2) ? 0x64 : 0x65;
	switch (how) {
	case 0: /* anything */
		if (jr_pick(2) == 0)
			bytes[n] = 0x40 | jr_pick(16);
		break;
	case 1: /* common ones */
		if (jr_pick(3) != 0)
			bytes[n++] = 0x40 | jr_pick(16);
		bytes[n++] = common[jr_pick(sizeof(common))] | (jr_pick(3) == 0 ? jr_pick(8) : 0);
		break;
	case 2: /* two-byte ones */
		if (jr_pick(2) != 0)
			bytes[n++] = 0x40 | jr_pick(16);
		bytes[n++] = 0x0f;
		n++;
		break;
	default: /* VEX */
		if (jr_pick(2) == 0) {
			bytes[n++] = 0xc5;
			n++;
		} else {
			bytes[n++] = 0xc4;
			bytes[n] = (bytes[n] & 0xe0) | (1 + jr_pick(3));
			n += 2;
		}
		n++;
		break;
	}
	/* Small displacements, no absolute addresses. */
	if (jr_pick(2) == 0)
		bytes[n] = (bytes[n] & 0x3f) | 0x40;
}

static bool add_insn(struct sequence *s, unsigned how)
{
	struct insn insn;
	uint8_t bytes[16] = {0};

	random_bytes(bytes, how);
	if (insn_decode(bytes, 15, INSN_MODE_64, true, ~(cpu_features_t)0, &insn) != INSN_OK ||
	    !is_wanted(&insn) || s->n_bytes + insn.length > MAX_BYTES ||
	    (insn.form->flags_read & s->undefined[s->n_insns]) != 0)
		return false;
	memcpy(s->bytes + s->n_bytes, bytes, insn.length);
	s->at[s->n_insns] = s->n_bytes;
	s->undefined[s->n_insns + 1] =
		(s->undefined[s->n_insns] & ~(unsigned)insn.form->flags_written) |
		insn.form->flags_undefined;
	s->n_bytes += insn.length;
	s->n_insns++;
	return true;
}

/* A conditional branch over some of what follows: filled in afterwards. */
static bool add_branch(struct sequence *s)
{
	if (s->n_bytes + 2 > MAX_BYTES)
		return false;
	if (s->undefined[s->n_insns] != 0)
		return true;
	s->bytes[s->n_bytes] = (uint8_t)(0x70 | jr_pick(16));
	s->bytes[s->n_bytes + 1] = 0;
	s->at[s->n_insns] = s->n_bytes;
	s->undefined[s->n_insns + 1] = s->undefined[s->n_insns];
	s->n_bytes += 2;
	s->n_insns++;
	return true;
}

static void make_sequence(struct sequence *s)
{
	unsigned wanted = 1 + jr_pick(MAX_INSNS);

	memset(s, 0, sizeof(*s));
	while (s->n_insns < wanted) {
		unsigned what = jr_pick(10);

		if (what == 9) {
			if (!add_branch(s))
				break;
		} else if (!add_insn(s, what < 5    ? 1
					: what < 7  ? 2
					: what == 7 ? 3
						    : 0) &&
			   s->n_bytes > MAX_BYTES - 16) {
			break;
		}
	}
	s->at[s->n_insns] = s->n_bytes;
	s->bytes[s->n_bytes++] = 0xf4;
	for (unsigned n = 0; n < s->n_insns; n++) {
		unsigned at = s->at[n], to = n + 1 + jr_pick(s->n_insns - n);

		if (s->at[n + 1] == at + 2 && (s->bytes[at] & 0xf0) == 0x70 &&
		    s->at[to] - at - 2 < 128)
			s->bytes[at + 1] = (uint8_t)(s->at[to] - at - 2);
	}
}

/* An address that is made to be mistaken for another one: the same place in the TLB, other upper bits, low bits of tags that are none. */
static uint64_t false_address(void)
{
	uint64_t at = JR_DATA + jr_pick(JR_DATA_PAGES) * 4096u;

	switch (jr_pick(8)) {
	case 0:
		return at + (uint64_t)TLB_SIZE * 4096 * (1 + jr_pick(1000));
	case 1: /* also not canonical */
		return at ^ 1ULL << (32 + jr_pick(32));
	case 2:
		return at | 0xffff800000000000ULL;
	case 3:
		return at + 4096 - jr_pick(33);
	case 4:
		return TLB_NEVER + jr_pick(64) - 32;
	case 5:
		return 0 - (uint64_t)jr_pick(64);
	case 6:
		return 0x800000000000ULL - jr_pick(64);
	default:
		return at + TLB_NEVER + jr_pick(32);
	}
}

static void random_state(struct jr *r, struct jr_state *s, unsigned off, bool alias)
{
	memset(s, 0, sizeof(*s));
	memcpy(s->ram, r->ram, JR_RAM);
	for (unsigned n = 0; n < 16; n++) {
		if (r->false_addresses && jr_pick(2) == 0) {
			s->gpr[n] = false_address();
			continue;
		}
		switch (jr_pick(8)) {
		case 0:
			s->gpr[n] = jr_random();
			break;
		case 1:
			s->gpr[n] = jr_pick(300);
			break;
		case 2: /* near a page's end */
			s->gpr[n] = JR_DATA + 4096 * jr_pick(JR_DATA_PAGES) + 4096 - jr_pick(40);
			break;
		default:
			s->gpr[n] = JR_DATA + jr_pick(JR_DATA_PAGES * 4096);
			break;
		}
	}
	if (jr_pick(4) != 0)
		s->gpr[4] = (JR_DATA + jr_pick(11 * 4096)) & ~7ULL;
	s->rip = (alias ? JR_ALIAS : JR_CODE) + off;
	s->rflags = RF_ONE;
	s->status =
		(uint16_t)(jr_random() & (ST_OF | ST_CF | ST_PF | ST_AF | ST_ZF | ST_SF)) | 0x200;
	for (unsigned n = 0; n < 512 + 64 + 256; n++)
		s->fpu[n] = (uint8_t)jr_random();
	for (unsigned n = 0; n < 32 && jr_pick(2) == 0; n++) { /* numbers that are ordinary */
		float f = (float)jr_pick(1000) / 8;

		memcpy(s->fpu + 160 + n * 8, &f, 4);
	}
	memset(s->fpu, 0, 32);
	s->fpu[0] = 0x7f;
	s->fpu[1] = 3;
	memset(s->fpu + 28, 0xff, 2); /* MXCSR_MASK */
	s->fpu[30] = 2;
	s->fpu[24] = 0x80;
	s->fpu[25] = 0x1f;
	memset(s->fpu + 416, 0, 160); /* reserved, header */
	s->fpu[512] = 7;
	for (unsigned n = 0; n < 8; n++) /* upper bytes of x87 registers */
		memset(s->fpu + 32 + n * 16 + 10, 0, 6);
	for (size_t n = 0; n < JR_DATA_PAGES * 4096; n += 8) {
		uint64_t value =
			jr_pick(3) == 0 ? JR_DATA + jr_pick(JR_DATA_PAGES * 4096) : jr_random();

		memcpy(s->ram + JR_DATA + n, &value, 8);
	}
}

static unsigned status_of(unsigned flags)
{
	return ((flags & INSN_CF) != 0 ? ST_CF : 0) | ((flags & INSN_PF) != 0 ? ST_PF : 0) |
	       ((flags & INSN_AF) != 0 ? ST_AF : 0) | ((flags & INSN_ZF) != 0 ? ST_ZF : 0) |
	       ((flags & INSN_SF) != 0 ? ST_SF : 0) | ((flags & INSN_OF) != 0 ? ST_OF : 0);
}

static void dump(const struct sequence *s, const struct jr_state *first, const struct jr_state *a,
		 const struct jr_state *b)
{
	fprintf(stderr, "code:");
	for (unsigned n = 0; n < s->n_bytes; n++)
		fprintf(stderr, "%s%02x", n != 0 ? "" : " ", s->bytes[n]);
	fprintf(stderr, "\n");
	for (unsigned n = 0; n < 16; n++)
		fprintf(stderr, "r%-2u %016lx: %016lx %016lx%s\n", n, first->gpr[n], a->gpr[n],
			b->gpr[n], a->gpr[n] != b->gpr[n] ? " <" : "");
	fprintf(stderr, "rip %lx %lx status %x: %x %x rflags %x %x cr2 %lx %lx\n", a->rip, b->rip,
		first->status, a->status, b->status, a->rflags, b->rflags, a->cr2, b->cr2);
	for (size_t n = 0; n < sizeof(a->fpu); n++)
		if (a->fpu[n] != b->fpu[n])
			fprintf(stderr, "fpu[%zu] %02x: %02x %02x\n", n, first->fpu[n], a->fpu[n],
				b->fpu[n]);
	for (size_t n = 0; n < JR_RAM; n++)
		if (a->ram[n] != b->ram[n])
			fprintf(stderr, "ram[%zx] %02x: %02x %02x\n", n, first->ram[n], a->ram[n],
				b->ram[n]);
	for (size_t n = JR_STACK - FRAME; n < JR_STACK; n += 8)
		fprintf(stderr, "frame %016lx %016lx\n",
			*(const uint64_t *)(const void *)(a->ram + n),
			*(const uint64_t *)(const void *)(b->ram + n));
}

/* Status flags that an exception's frame may have differently: those that nothing reads any more. The frame's flags are compared without
 * status flags, all else exactly. */
static bool same(const struct jr_state *a, struct jr_state *b, bool raised, unsigned undefined)
{
	if (raised) {
		b->ram[JR_STACK - 24] = a->ram[JR_STACK - 24];
		b->ram[JR_STACK - 23] ^= (a->ram[JR_STACK - 23] ^ b->ram[JR_STACK - 23]) & 8;
	}
	/* The x87's last instruction is not followed. */
	return memcmp(a->gpr, b->gpr, sizeof(a->gpr)) == 0 && a->rip == b->rip &&
	       a->rflags == b->rflags && a->cr2 == b->cr2 &&
	       (raised || ((a->status ^ b->status) & status_of(~undefined)) == 0) &&
	       memcmp(a->fpu, b->fpu, 6) == 0 && memcmp(a->fpu + 24, b->fpu + 24, 392) == 0 &&
	       memcmp(a->fpu + 576, b->fpu + 576, 256) == 0 && memcmp(a->ram, b->ram, JR_RAM) == 0;
}

static struct jr_state first, by_interpreter, by_translator;

/* Whether both agreed; *ret_raised: on an exception. */
static bool one(struct jr *r, const struct sequence *s, unsigned off, bool alias)
{
	unsigned undefined = 0;
	bool raised;

	for (unsigned n = 0; n <= s->n_insns; n++)
		undefined |= s->undefined[n];
	jr_set_code(r, off, s->bytes, s->n_bytes);
	random_state(r, &first, off, alias);
	jr_load(r, &first);
	if (!jr_interpret(r))
		return true; /* a triple fault, or too long */
	jr_save(r, &by_interpreter);
	jr_load(r, &first);
	if (!jr_translate(r)) {
		fprintf(stderr, "the translator does not end\n");
		return false;
	}
	jr_save(r, &by_translator);
	raised = by_interpreter.rip >= JR_HANDLERS && by_interpreter.rip < JR_HANDLERS + 0x1000;
	if (same(&by_interpreter, &by_translator, raised, undefined))
		return true;
	dump(s, &first, &by_interpreter, &by_translator);
	return false;
}

static unsigned rounds(unsigned usual)
{
	const char *text = getenv("VIREO_TEST_FACTOR");
	uint64_t factor = 1;

	if (text != NULL)
		assert_int_equal(parse_u64(text, &factor), 0);
	return usual * (unsigned)factor;
}

static void random_sequences(unsigned cpl, unsigned n_rounds, uint64_t seed, bool false_addresses)
{
	struct jr r;
	struct sequence s;
	unsigned failed = 0;

	jr_init(&r, 1);
	r.false_addresses = false_addresses;
	for (unsigned n = 0; n < n_rounds && failed < 1; n++) {
		unsigned off;

		jr_seed(seed + n);
		off = jr_pick(JR_CODE_PAGES * 4096 - 256);
		if (jr_pick(8) == 0) /* over a page's end */
			off = off / 4096 * 4096 + 4096 - jr_pick(60);
		jr_long(&r, r.cpu, cpl);
		make_sequence(&s);
		if (!one(&r, &s, off, jr_pick(2))) {
			fprintf(stderr, "seed %lu\n", seed + n);
			failed++;
		}
	}
	jr_fini(&r);
	assert_int_equal(failed, 0);
}

static void test_kernel(void **state)
{
	(void)state;
	random_sequences(0, rounds(2000), 1000000, false);
}

static void test_user(void **state)
{
	(void)state;
	random_sequences(3, rounds(2000), 2000000, false);
}

/* The reach of translated code: what it must not touch, addressed in every way. */
static void test_reach(void **state)
{
	(void)state;
	random_sequences(0, rounds(2000), 3000000, true);
	random_sequences(3, rounds(2000), 4000000, true);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_kernel),
		cmocka_unit_test(test_user),
		cmocka_unit_test(test_reach),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
