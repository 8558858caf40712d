/* What must be alike after a case, and how it is shown when it is not. */
#include <string.h>

#include "softdiff/diff.h"

static const char *const gpr_names[16] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
					  "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};

static uint64_t flags_of(uint8_t mask)
{
	static const uint16_t bits[8] = {0x001, 0x004, 0x010, 0x040, 0x080, 0x800, 0x400, 0};
	uint64_t out = 0;

	for (unsigned i = 0; i < 8; i++)
		if (mask >> i & 1)
			out |= bits[i];
	return out;
}

struct report {
	FILE *f;
	bool differs;
};

static void differ(struct report *r, const char *what, uint64_t native, uint64_t guest)
{
	r->differs = true;
	if (r->f)
		fprintf(r->f, "  %-8s native %016llx, software %016llx\n", what,
			(unsigned long long)native, (unsigned long long)guest);
}

static void check(struct report *r, const char *what, uint64_t native, uint64_t guest)
{
	if (native != guest)
		differ(r, what, native, guest);
}

static uint64_t word(const uint8_t *p, unsigned n)
{
	uint64_t v = 0;

	memcpy(&v, p, n);
	return v;
}

static void check_fpu(struct report *r, const uint8_t *native, const uint8_t *guest)
{
	static const struct {
		const char *name;
		unsigned at, size;
	} words[] = {{"fcw", 0, 2}, {"fsw", 2, 2}, {"ftw", 4, 2}, {"mxcsr", 24, 4}};
	char name[16];

	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		check(r, words[i].name, word(native + words[i].at, words[i].size),
		      word(guest + words[i].at, words[i].size));
	for (unsigned i = 0; i < 8; i++) {
		const uint8_t *a = native + 32 + 16 * (size_t)i, *b = guest + 32 + 16 * (size_t)i;

		snprintf(name, sizeof(name), "st%u", i);
		check(r, name, word(a, 8), word(b, 8));
		snprintf(name, sizeof(name), "st%u.exp", i);
		check(r, name, word(a + 8, 2), word(b + 8, 2));
	}
	for (unsigned i = 0; i < 16; i++)
		for (unsigned k = 0; k < 4; k++) {
			unsigned at = (k < 2 ? 160 : 576) + 16 * i + 8 * (k & 1);

			snprintf(name, sizeof(name), "ymm%u.%u", i, k);
			check(r, name, word(native + at, 8), word(guest + at, 8));
		}
}

static void check_window(struct report *r)
{
	const uint8_t *a = native_window(), *b = guest_window();
	char name[16];

	if (memcmp(a, b, WINDOW_SIZE) == 0)
		return;
	for (unsigned at = 0; at < WINDOW_SIZE; at += 8)
		if (memcmp(a + at, b + at, 8) != 0) {
			snprintf(name, sizeof(name), "+%x", at);
			differ(r, name, word(a + at, 8), word(b + at, 8));
		}
}

static bool is_start(const struct diff_case *c, uint64_t rip)
{
	for (unsigned i = 0; i < c->n; i++)
		if (rip == c->before.rip + c->offset[i])
			return true;
	return false;
}

/* Natively, a branch that was taken ends with a fault at its target: that fault is no part of the case. */
static void forget_target_fault(const struct diff_case *c, struct diff_outcome *o)
{
	uint64_t end = c->before.rip + c->offset[c->n];

	if (o->vector < 0 || (is_start(c, o->state.rip) && o->vector != 3))
		return;
	if (o->vector == 3 && o->state.rip != end) /* the filling's INT3 */
		o->state.rip--;
	else if (o->vector == 3)
		return;
	o->vector = -1;
	o->error = 0;
	o->address = 0;
}

/* The instruction that faulted. */
static const struct insn *faulting(const struct diff_case *c, const struct diff_outcome *o)
{
	for (unsigned i = 0; i < c->n; i++)
		if (o->state.rip == c->before.rip + c->offset[i])
			return &c->insn[i];
	return &c->insn[0];
}

/* Flags that the instructions from rip on overwrite before they read them: translated code does not make them, were there a fault meanwhile. */
static uint8_t dead_flags(const struct diff_case *c, uint64_t rip)
{
	/* By pairs of conditions. */
	static const uint8_t conditions[8] = {INSN_OF,           INSN_CF,
					      INSN_ZF,           INSN_CF | INSN_ZF,
					      INSN_SF,           INSN_PF,
					      INSN_SF | INSN_OF, INSN_ZF | INSN_SF | INSN_OF};
	uint8_t read = 0, dead = 0;

	for (unsigned i = 0; i < c->n; i++) {
		const struct insn_form *form = c->insn[i].form;

		if (rip > c->before.rip + c->offset[i])
			continue;
		bool conditional = form->op == OP_CMOV || form->op == OP_SET || form->op == OP_JCC;

		/* A shift whose count is there to see is not one by 0. */
		if (!(form->op >= OP_ROL && form->op <= OP_SAR) && form->op != OP_SHLD &&
		    form->op != OP_SHRD)
			read |= (conditional ? conditions[c->insn[i].cond >> 1]
					     : form->flags_read) &
				(uint8_t)~dead;
		dead |= form->flags_written & (uint8_t)~read;
	}
	return dead;
}

/* Flags that this case leaves undefined. */
static uint64_t undefined_flags(const struct diff_case *c, const struct diff_outcome *native,
				enum engine engine)
{
	uint64_t out = 0;

	for (unsigned i = 0; i < c->n; i++) {
		const struct insn_form *form = c->insn[i].form;

		/* A faulting instruction leaves flags alone. */
		if (native->vector >= 0 && native->state.rip == c->before.rip + c->offset[i])
			break;
		out &= ~flags_of((uint8_t)(form->flags_written & ~form->flags_undefined &
					   ~form->flags_read));
		out |= flags_of(form->flags_undefined);
	}
	if (engine == ENGINE_TRANSLATE && native->vector >= 0)
		out |= flags_of(dead_flags(c, native->state.rip));
	return out;
}

/* Which of several accesses comes first is the processor's choice. */
static bool is_image(const struct diff_case *c, const struct diff_outcome *o)
{
	switch (faulting(c, o)->op) {
	case OP_FXSAVE:
	case OP_FXRSTOR:
	case OP_XSAVE:
	case OP_XSAVEC:
	case OP_XSAVEOPT:
	case OP_XRSTOR:
	case OP_FNSAVE:
	case OP_FRSTOR:
	case OP_FNSTENV:
	case OP_FLDENV:
	case OP_VMASKMOV_LOAD:
	case OP_VMASKMOV_STORE:
		return true;
	default:
		return false;
	}
}

/* What processors are free to do one way or another. */
static bool is_free(const struct diff_case *c, const struct diff_outcome *native,
		    const struct diff_outcome *guest)
{
	uint16_t op = faulting(c, native)->op;

	/* Intel wants alignment, AMD does not care. */
	if (guest->vector == 13 && faulting(c, guest)->form->feature == FEATURE_SHA)
		return true;
	/* AMD's MXCSR has a bit 17, which the software CPU refuses. (APM volume 1, section 4.2.2.) */
	if (guest->vector == 13 && native->state.fpu[26] & 2)
		return true;
	/* What reaches over the end of 4 GiB. */
	if (c->mode != INSN_MODE_64 && native->vector == 14 && guest->vector >= 12 &&
	    native->address > 0xffffff00)
		return true;
	/* A bad header, and a page that is not there behind it. */
	if (is_image(c, native) && native->vector >= 12 && guest->vector >= 12 &&
	    native->vector != guest->vector)
		return true;
	/* A component that the header says is not there may be looked at or not. */
	if (native->vector == 14 && guest->vector != 14 &&
	    (op == OP_XRSTOR || op == OP_XSAVEC || op == OP_XSAVEOPT))
		return true;
	/* VPINSRQ outside 64-bit mode is VPINSRD to Intel, and no instruction to AMD. */
	if (native->vector == 6 && c->mode != INSN_MODE_64 && faulting(c, native)->opcode == 0x22)
		return true;
	switch (op) {
	case OP_MASKMOVDQU: /* bytes that the mask leaves out may fault or not (SDM volume 2) */
	case OP_MASKMOVQ:
	case OP_ENTER: /* what it has written below the stack pointer before its fault */
	case OP_POPA:  /* which registers it has loaded before it */
		return native->vector >= 12;
	case OP_MOVS: /* which of two bad addresses is found first */
	case OP_CMPS:
	case OP_CALL_IND:
	case OP_CMPXCHG16B:
		return native->vector >= 12 && guest->vector >= 12;
	case OP_NOP: /* PREFETCHW of a register is no instruction on AMD's processors */
		return native->vector == 6 && faulting(c, native)->opcode == 0x0d;
	default:
		return false;
	}
}

bool compare(const struct diff_case *c, const struct diff_outcome *native,
	     const struct diff_outcome *software, enum engine engine, FILE *f)
{
	struct report r = {f, false};
	struct diff_outcome n = *native, g = *software, *guest = &g;
	uint64_t mask = FLAGS_STATUS | FLAGS_DF | 0x240000;

	forget_target_fault(c, &n);
	forget_target_fault(c, &g);
	if (is_free(c, &n, guest))
		return true;
	check(&r, "vector", (uint64_t)(int64_t)n.vector, (uint64_t)(int64_t)guest->vector);
	if (n.vector >= 0 && n.vector == guest->vector) {
		/* Behind the lower half of addresses, the host's kernel may have something mapped. */
		uint32_t ignored = n.address >> 12 >= 0x7ffffffff || is_image(c, &n) ? 1 : 0;

		check(&r, "error", n.error & ~ignored, guest->error & ~ignored);
		/* In 32-bit mode, translated code lets a stack access leave the first 4 GiB at either end, where it faults as well. */
		if (engine == ENGINE_TRANSLATE && c->mode != INSN_MODE_64)
			g.address = (uint32_t)g.address;
		if (!is_image(c, &n))
			check(&r, "address", n.address, guest->address);
	}
	check(&r, "rip", n.state.rip, guest->state.rip);
	for (unsigned i = 0; i < (c->mode == INSN_MODE_64 ? 16 : 8); i++) {
		uint64_t low = c->mode == INSN_MODE_64 ? UINT64_MAX : UINT32_MAX;

		check(&r, gpr_names[i], n.state.gpr[i] & low, guest->state.gpr[i] & low);
	}
	mask &= ~undefined_flags(c, &n, engine);
	check(&r, "rflags", n.state.rflags & mask, guest->state.rflags & mask);
	check(&r, "gs.base", n.state.gs_base, guest->state.gs_base);
	/* How far a gather comes before its fault is not defined. */
	if (n.vector < 0 || faulting(c, &n)->op != OP_VGATHER)
		check_fpu(&r, n.state.fpu, guest->state.fpu);
	check_window(&r);
	return !r.differs;
}

static void print_state(FILE *f, const struct diff_state *s)
{
	for (unsigned i = 0; i < 16; i++)
		fprintf(f, "%s%-3s %016llx%s", i % 4 ? " " : "  ", gpr_names[i],
			(unsigned long long)s->gpr[i], i % 4 == 3 ? "\n" : "");
	fprintf(f, "  rip %llx gs.base %llx rflags %llx mxcsr %llx fcw %llx fsw %llx ftw %llx\n",
		(unsigned long long)s->rip, (unsigned long long)s->gs_base,
		(unsigned long long)s->rflags, (unsigned long long)word(s->fpu + 24, 4),
		(unsigned long long)word(s->fpu, 2), (unsigned long long)word(s->fpu + 2, 2),
		(unsigned long long)word(s->fpu + 4, 1));
}

/* The vector registers and x87 registers that an instruction names. */
static void print_operands(FILE *f, const struct diff_case *c, const struct insn *insn)
{
	for (unsigned i = 0; i < insn->n_operands; i++) {
		const struct insn_operand *o = &insn->operand[i];
		const uint8_t *low = c->before.fpu + 160 + 16 * (size_t)o->reg;
		const uint8_t *high = c->before.fpu + 576 + 16 * (size_t)o->reg;
		const uint8_t *st = c->before.fpu + 32 + 16 * (size_t)o->reg;

		if (o->kind == OPND_VEC)
			fprintf(f, "  ymm%u %016llx %016llx %016llx %016llx\n", o->reg,
				(unsigned long long)word(low, 8),
				(unsigned long long)word(low + 8, 8),
				(unsigned long long)word(high, 8),
				(unsigned long long)word(high + 8, 8));
		else if (o->kind == OPND_ST || o->kind == OPND_MMX)
			fprintf(f, "  st%u %04llx %016llx\n", o->reg,
				(unsigned long long)word(st + 8, 2),
				(unsigned long long)word(st, 8));
	}
}

void print_case(FILE *f, const struct diff_case *c)
{
	for (unsigned i = 0; i < c->n; i++) {
		fprintf(f, "%s-bit %s (%s):", c->mode == INSN_MODE_64 ? "64" : "32",
			c->insn[i].form->name, c->insn[i].form->where);
		for (unsigned k = c->offset[i]; k < c->offset[i + 1]; k++)
			fprintf(f, " %02x", c->code[k]);
		fprintf(f, "\n");
		print_operands(f, c, &c->insn[i]);
	}
	print_state(f, &c->before);
}
