/*
 * Makes encodings of a form. What a form constrains is read from its line of the tables (struct insn_form.where); everything else is random, and the decoder
 * says whether it has become an instruction of that form.
 */
#include <stdlib.h>
#include <string.h>

#include "softdiff/diff.h"

#define ANY   (-1)
#define TRIES 40

/* Constraints of an encoding, as numbers or ANY. */
struct pattern {
	bool vex;
	uint8_t map, opcode, count; /* count: opcodes that follow, for +r and +c */
	int8_t pp, digit, mod3, rm, w, l, o, a;
	bool no_rex_b;
};

static struct pattern *patterns;

/* What cannot run in user mode, or differs between two processors by design. */
static const struct {
	uint16_t op;
	const char *why;
} excluded[] = {
	{OP_PUSH_SEG, "selectors are the host's"},
	{OP_POP_SEG, "selectors are the host's"},
	{OP_MOV_FROM_SEG, "selectors are the host's"},
	{OP_MOV_TO_SEG, "selectors are the host's"},
	{OP_LES, "selectors are the host's"},
	{OP_LDS, "selectors are the host's"},
	{OP_LSS, "selectors are the host's"},
	{OP_LFS, "selectors are the host's"},
	{OP_LGS, "selectors are the host's"},
	{OP_CALL_FAR, "selectors are the host's"},
	{OP_JMP_FAR, "selectors are the host's"},
	{OP_RET_FAR, "selectors are the host's"},
	{OP_IRET, "selectors are the host's"},
	{OP_LAR, "descriptors are the host's"},
	{OP_LSL, "descriptors are the host's"},
	{OP_VERR, "descriptors are the host's"},
	{OP_VERW, "descriptors are the host's"},
	{OP_ARPL, "Linux's 32-bit code selector"},
	{OP_SLDT, "the kernel emulates it"},
	{OP_STR, "the kernel emulates it"},
	{OP_SGDT, "the kernel emulates it"},
	{OP_SIDT, "the kernel emulates it"},
	{OP_SMSW, "the kernel emulates it"},
	{OP_INT3, "a system call or trap of the host's kernel"},
	{OP_INT, "a system call or trap of the host's kernel"},
	{OP_INT1, "a system call or trap of the host's kernel"},
	{OP_INTO, "a trap of the host's kernel"},
	{OP_SYSCALL, "a system call of the host's kernel"},
	{OP_SYSENTER, "a system call of the host's kernel"},
	{OP_SYSEXIT, "AMD has it in 32-bit mode alone"},
	{OP_VMCALL, "a call of the host's hypervisor"},
	{OP_VMMCALL, "a call of the host's hypervisor"},
	{OP_RDTSC, "time"},
	{OP_RDTSCP, "time"},
	{OP_RDPMC, "the host's kernel decides"},
	{OP_RDPID, "the host's processor number"},
	{OP_RDRAND, "random"},
	{OP_RDSEED, "random"},
	{OP_CPUID, "another processor"},
	{OP_XGETBV, "another processor"},
	{OP_RDFSBASE, "thread-local storage"},
	{OP_WRFSBASE, "thread-local storage"},
	{OP_IN, "ports"},
	{OP_OUT, "ports"},
	{OP_INS, "ports"},
	{OP_OUTS, "ports"},
	{OP_MONITOR, "hidden"},
	{OP_MWAIT, "hidden"},
	{OP_CLZERO, "hidden"},
};

const char *gen_excluded(const struct insn_form *form)
{
	for (size_t i = 0; i < sizeof(excluded) / sizeof(excluded[0]); i++)
		if (form->op == excluded[i].op)
			return excluded[i].why;
	return NULL;
}

static void parse_word(struct pattern *p, const char *word)
{
	static const char *const prefixes[4] = {"np", "66", "f3", "f2"};

	for (int i = 0; i < 4; i++)
		if (!strcmp(word, prefixes[i]))
			p->pp = (int8_t)i;
	if (word[0] == '/')
		p->digit = (int8_t)(word[1] - '0');
	else if (!strncmp(word, "rm=", 3))
		p->rm = (int8_t)(word[3] - '0');
	else if (!strcmp(word, "mem"))
		p->mod3 = 0;
	else if (!strcmp(word, "reg"))
		p->mod3 = 1;
	else if (!strcmp(word, "nob"))
		p->no_rex_b = true;
	else if (word[0] == 'w' && !word[2])
		p->w = (int8_t)(word[1] - '0');
	else if (word[0] == 'l' && !word[2])
		p->l = (int8_t)(word[1] - '0');
	else if (word[0] == 'o' && word[1] >= '0' && word[1] <= '9')
		p->o = word[1] == '1' ? 16 : word[1] == '3' ? 32 : 64;
	else if (word[0] == 'a' && word[1] >= '0' && word[1] <= '9' && strlen(word) == 3)
		p->a = word[1] == '1' ? 16 : word[1] == '3' ? 32 : 64;
}

static unsigned hex_digit(char c)
{
	return c <= '9' ? (unsigned)(c - '0') : (unsigned)(c - 'a') + 10;
}

static void parse(struct pattern *p, const char *where)
{
	char text[80], *save = NULL, *word;

	*p = (struct pattern){.count = 1,
			      .pp = ANY,
			      .digit = ANY,
			      .mod3 = ANY,
			      .rm = ANY,
			      .w = ANY,
			      .l = ANY,
			      .o = ANY,
			      .a = ANY};
	snprintf(text, sizeof(text), "%s", where);
	word = strtok_r(text, " ", &save);
	p->vex = word && !strcmp(word, "vex");
	word = strtok_r(NULL, " ", &save);
	if (word && word[0] == '0' && word[1] == 'f' && strlen(word) > 2) {
		p->map = word[3] == '8' ? 2 : 3;
		word = strtok_r(NULL, " ", &save);
	} else if (word && !strcmp(word, "0f")) {
		p->map = 1;
		word = strtok_r(NULL, " ", &save);
	}
	if (!word)
		return;
	p->opcode = (uint8_t)(hex_digit(word[0]) << 4 | hex_digit(word[1]));
	if (word[2] == '+')
		p->count = word[3] == 'c' ? 16 : 8;
	while ((word = strtok_r(NULL, " ", &save)))
		parse_word(p, word);
}

int gen_init(void)
{
	patterns = calloc(insn_n_forms, sizeof(*patterns));
	if (!patterns)
		return -1;
	for (size_t i = 1; i < insn_n_forms; i++)
		parse(&patterns[i], insn_forms[i].where);
	return 0;
}

struct encoder {
	struct rng *rng;
	const struct pattern *p;
	const struct insn_form *form;
	enum insn_mode mode;
	uint8_t *at;
};

static void put(struct encoder *e, unsigned byte)
{
	*e->at++ = (uint8_t)byte;
}

static bool wants(struct encoder *e, int constraint, unsigned percent)
{
	return constraint == ANY ? rng_chance(e->rng, percent) : constraint;
}

/* A segment (not FS: it is thread-local storage natively) and an address-size prefix. */
static void put_common_prefixes(struct encoder *e)
{
	static const uint8_t segments[] = {0x26, 0x2e, 0x36, 0x3e, 0x65};

	if (rng_chance(e->rng, 8))
		put(e, segments[rng_below(e->rng, e->mode == INSN_MODE_64 ? 5 : 4)]);
	if (e->p->a == ANY ? rng_chance(e->rng, 8) : e->p->a != (e->mode == INSN_MODE_64 ? 64 : 32))
		put(e, 0x67);
}

static void put_legacy(struct encoder *e)
{
	const struct pattern *p = e->p;
	unsigned rex = 0;

	put_common_prefixes(e);
	if (p->pp == 1 || (p->pp == ANY && wants(e, p->o == ANY ? ANY : p->o == 16, 20)))
		put(e, 0x66);
	if (p->pp == 2 || p->pp == 3)
		put(e, p->pp == 2 ? 0xf3 : 0xf2);
	else if (p->pp == ANY && rng_chance(e->rng, e->form->attrs & FORM_REP ? 50 : 4))
		put(e, 0xf2 + rng_below(e->rng, 2));
	if (rng_chance(e->rng, e->form->attrs & FORM_LOCK ? 25 : 2))
		put(e, 0xf0);
	if (e->mode == INSN_MODE_64) {
		if (rng_chance(e->rng, 60))
			rex = 0x40 | rng_below(e->rng, 16);
		if (p->w != ANY || p->o == 64 || p->o == 32)
			rex = (rex & ~8u) | 0x40 | (wants(e, p->w, p->o == 64 ? 100 : 0) ? 8 : 0);
		if (p->no_rex_b)
			rex &= ~1u;
		if (rex)
			put(e, rex);
	}
	if (p->map)
		put(e, 0x0f);
	if (p->map > 1)
		put(e, p->map == 2 ? 0x38 : 0x3a);
	put(e, p->opcode + rng_below(e->rng, p->count));
}

static void put_vex(struct encoder *e)
{
	const struct pattern *p = e->p;
	bool is_64 = e->mode == INSN_MODE_64, w = wants(e, p->w, 30);
	unsigned vvvv = rng_chance(e->rng, 50) ? 15 : rng_below(e->rng, 16);
	unsigned last;

	put_common_prefixes(e);
	if (!is_64)
		vvvv |= 8;
	last = vvvv << 3 | (unsigned)wants(e, p->l, 50) << 2 | (unsigned)p->pp;
	if (p->map == 1 && !w && rng_chance(e->rng, 50)) {
		put(e, 0xc5);
		put(e, last | (is_64 ? rng_below(e->rng, 2) : 1) << 7);
	} else {
		put(e, 0xc4);
		put(e, (is_64 ? rng_below(e->rng, 8) : 7) << 5 | p->map);
		put(e, last | (unsigned)w << 7);
	}
	put(e, p->opcode);
}

static unsigned random_modrm(struct encoder *e)
{
	const struct pattern *p = e->p;
	unsigned modrm = (unsigned)rng_next(e->rng) & 0xff;

	if (rng_chance(e->rng, 40))
		modrm |= 0xc0;
	if (p->mod3 == 1)
		modrm |= 0xc0;
	else if (p->mod3 == 0)
		modrm = (modrm & 0x3f) | rng_below(e->rng, 3) << 6;
	if (p->digit != ANY)
		modrm = (modrm & ~0x38u) | (unsigned)p->digit << 3;
	if (p->rm != ANY)
		modrm = (modrm & ~7u) | (unsigned)p->rm;
	return modrm;
}

/* Branches into the case itself could loop, and FS is not the guest's. */
static bool is_usable(const struct insn *insn, uint64_t at)
{
	if (insn->operand[0].kind == OPND_REL) {
		uint64_t target = at + insn->length + insn->imm;

		if (target + 160 > at && target < at + 160)
			return false;
	}
	/* In 64-bit mode Intel ignores 66 for near branches, AMD makes RIP 16 bits wide. */
	if (insn->mode == INSN_MODE_64 && insn->form->attrs & FORM_FORCE64 &&
	    insn->form->attrs & FORM_BRANCH && insn->opsize_prefix && !insn->rex_w)
		return false;
	return insn->seg != SEG_FS;
}

bool gen_insn(struct rng *r, unsigned form, enum insn_mode mode, cpu_features_t features,
	      uint64_t at, struct diff_state *state, uint8_t *code, struct insn *ret)
{
	struct encoder e = {r, &patterns[form], &insn_forms[form], mode, NULL};

	for (unsigned i = 0; i < TRIES; i++) {
		uint8_t bytes[INSN_MAX_BYTES + 24] = {0};
		unsigned modrm_at;

		e.at = bytes;
		if (e.p->vex)
			put_vex(&e);
		else
			put_legacy(&e);
		modrm_at = (unsigned)(e.at - bytes);
		put(&e, random_modrm(&e));
		while (e.at < bytes + sizeof(bytes) - 1)
			put(&e, (unsigned)rng_next(r) & (rng_chance(r, 50) ? 0xff : 0x3f));
		if (insn_decode(bytes, INSN_MAX_BYTES, mode, true, features, ret) != INSN_OK ||
		    ret->form->id != form || !is_usable(ret, at))
			continue;
		memcpy(code, bytes, ret->length);
		fix_operands(r, ret, code, modrm_at, at, state);
		if (insn_decode(code, ret->length, mode, true, features, ret) != INSN_OK)
			continue;
		return true;
	}
	return false;
}
