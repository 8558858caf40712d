/*
 * Encodings that once gave something else than the host's processor: each is run in many states, before random ones. A sequence of several instructions has its
 * operands where they happen to be.
 */
#include <string.h>

#include "softdiff/diff.h"

static const struct {
	enum insn_mode mode;
	uint8_t modrm_at, length;
	uint8_t bytes[INSN_MAX_BYTES];
} kept[] = {
	/* ENTER copies frame pointers that may overlap */
	{INSN_MODE_64, 1, 4, {0xc8, 0xd7, 0x00, 0xfe}},
	/* CMPXCHG that does not exchange */
	{INSN_MODE_64, 2, 3, {0x0f, 0xb1, 0xf7}},
	{INSN_MODE_64, 3, 4, {0x44, 0x0f, 0xb1, 0xf1}},
	/* CVTPI2PS, CVTPI2PD with memory and registers */
	{INSN_MODE_64, 2, 4, {0x0f, 0x2a, 0x58, 0xc2}},
	{INSN_MODE_64, 3, 5, {0x66, 0x0f, 0x2a, 0x58, 0xc2}},
	{INSN_MODE_64, 2, 3, {0x0f, 0x2a, 0xca}},
	/* ADDPS, XSAVE, FXSAVE: misaligned, not canonical, in the stack segment */
	{INSN_MODE_64, 3, 5, {0x4e, 0x0f, 0x58, 0x45, 0x7b}},
	{INSN_MODE_64, 2, 4, {0x0f, 0xae, 0x65, 0x10}},
	{INSN_MODE_64, 2, 4, {0x0f, 0xae, 0x45, 0x10}},
	/* MULX into one register */
	{INSN_MODE_64, 4, 5, {0xc4, 0x42, 0x23, 0xf6, 0xdf}},
	/* VEX.W in 32-bit code: RORX, VCVTSI2SS, VPEXTRD, VPCMPESTRI */
	{INSN_MODE_32, 4, 6, {0xc4, 0xe3, 0xfb, 0xf0, 0xf3, 0x4e}},
	{INSN_MODE_32, 4, 6, {0xc4, 0xe1, 0xfa, 0x2a, 0x51, 0x21}},
	{INSN_MODE_32, 4, 6, {0xc4, 0xe3, 0xf9, 0x16, 0xfd, 0x3e}},
	{INSN_MODE_32, 4, 6, {0xc4, 0xe3, 0xf9, 0x61, 0xc1, 0x22}},
	/* VBLENDVPS with a register above 7 in the immediate, VZEROUPPER, in 32-bit code */
	{INSN_MODE_32, 4, 6, {0xc4, 0xe3, 0x7d, 0x4a, 0xc1, 0x8f}},
	{INSN_MODE_32, 2, 3, {0xc5, 0xf8, 0x77}},
	/* the stack pointer from a vector instruction and from CMPXCHG, between accesses of the stack */
	{INSN_MODE_64, 0, 11, {0x68, 1, 2, 3, 4, 0x66, 0x0f, 0xd7, 0xe6, 0xff, 0xd6}},
	{INSN_MODE_64, 0, 10, {0x68, 1, 2, 3, 4, 0x48, 0x0f, 0xb1, 0xdc, 0x50}},
	/* stores by way of CS */
	{INSN_MODE_32, 2, 4, {0x2e, 0x82, 0x06, 0x37}},
	{INSN_MODE_32, 2, 4, {0x2e, 0xdf, 0x49, 0x54}},
};

unsigned kept_count(void)
{
	return sizeof(kept) / sizeof(kept[0]);
}

bool kept_case(struct rng *r, unsigned index, enum insn_mode mode, cpu_features_t features,
	       struct diff_case *c)
{
	unsigned n = kept[index].length;

	if (kept[index].mode != mode)
		return false;
	memcpy(c->code, kept[index].bytes, n);
	for (c->n = 0; c->offset[c->n] < n; c->n++) {
		unsigned at = c->offset[c->n];
		struct insn *insn = &c->insn[c->n];

		/* What is no instruction only because a feature is hidden would be one natively. */
		if (insn_decode(c->code + at, n - at, mode, true, features, insn) != INSN_OK &&
		    insn_decode(c->code + at, n - at, mode, true, ~(cpu_features_t)0, insn) ==
			    INSN_OK)
			return false;
		c->offset[c->n + 1] = at + insn->length;
	}
	if (c->n == 1)
		fix_operands(r, &c->insn[0], c->code, kept[index].modrm_at, c->before.rip,
			     &c->before);
	c->offset[c->n] = n;
	return true;
}
