/* The instruction decoder on any bytes: it says the same when more bytes follow, and what it decodes is within its own limits. */
#include <stdlib.h>
#include <string.h>

#include "vm/accel/soft/isa/insn.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool holds)
{
	if (!holds)
		abort();
}

static void check_insn(const struct insn *insn)
{
	check(insn->length >= 1 && insn->length <= INSN_MAX_BYTES);
	check(insn->op > OP_NONE && insn->op < INSN_N_OPS && insn->form->id < insn_n_forms);
	check(insn->n_operands <= INSN_MAX_OPERANDS && insn->seg < INSN_N_SEGS);
	check(insn->base < 16 || insn->base == INSN_REG_RIP || insn->base == INSN_REG_NONE);
	check(insn->index < 16 || insn->index == INSN_REG_NONE);
	for (unsigned i = 0; i < insn->n_operands; i++)
		switch (insn->operand[i].kind) {
		case OPND_GPR:
		case OPND_CR:
		case OPND_VEC:
			check(insn->operand[i].reg < 16);
			break;
		case OPND_GPR_HIGH:
			check(insn->operand[i].reg < 4);
			break;
		case OPND_SEG:
			check(insn->operand[i].reg < INSN_N_SEGS);
			break;
		case OPND_DR:
		case OPND_MMX:
		case OPND_ST:
			check(insn->operand[i].reg < 8);
			break;
		default:
			break;
		}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t padded[2 * INSN_MAX_BYTES] = {0};
	cpu_features_t features;
	struct insn insn, again;
	enum insn_status status;

	if (size < 10)
		return 0;
	memcpy(&features, data + 2, sizeof(features));
	features |= FEATURE_BIT(FEATURE_ALWAYS);
	size = size - 10 < INSN_MAX_BYTES ? size - 10 : INSN_MAX_BYTES;
	memcpy(padded, data + 10, size);
	memset(padded + size, data[1], sizeof(padded) - size);
	status = insn_decode(data + 10, size, data[0] % 3, data[0] & 4, features, &insn);
	if (status == INSN_OK)
		check_insn(&insn);
	if (status == INSN_SHORT)
		check(size < INSN_MAX_BYTES);
	else
		check(insn_decode(padded, sizeof(padded), data[0] % 3, data[0] & 4, features,
				  &again) == status &&
		      (status != INSN_OK || (again.op == insn.op && again.length == insn.length)));
	return 0;
}
