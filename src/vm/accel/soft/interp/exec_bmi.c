/*
 * BMI1, BMI2 and ADX: ANDN BLSR BLSMSK BLSI BZHI BEXTR PEXT PDEP, ADCX ADOX. (Intel SDM volume 2.) A guest is shown
 * them only where the host has them, too.
 */
#include "vm/accel/soft/interp/interp_int.h"

/* SF and ZF of a result; CF as given; OF, AF and PF clear. */
static void set_flags(struct soft_cpu *cpu, uint64_t value, unsigned size, bool carry)
{
	value &= size_mask(size);
	cpu->status = (uint16_t)((value == 0 ? ST_ZF : 0) | (carry ? ST_CF : 0) |
				 (value >> (8 * size - 1) & 1 ? ST_SF : 0));
}

static void andn(struct soft_cpu *cpu, const struct insn *insn)
{
	unsigned size = insn->operand[0].size;
	uint64_t b = rm_get(cpu, insn, &insn->operand[2], size);
	uint64_t value = ~cpu->gpr[insn->operand[1].reg] & b;

	gpr_put(cpu, insn->operand[0].reg, size, value);
	set_flags(cpu, value, size, false);
}

/* BLSR, BLSMSK and BLSI differ in what they make of the source and the source less one. */
static void lowest_bit(struct soft_cpu *cpu, const struct insn *insn)
{
	unsigned size = insn->operand[0].size;
	uint64_t a = rm_get(cpu, insn, &insn->operand[1], size), value;
	bool carry = a == 0;

	if (insn->op == OP_BLSR) {
		value = a & (a - 1);
	} else if (insn->op == OP_BLSMSK) {
		value = a ^ (a - 1);
	} else {
		value = a & -a;
		carry = a != 0;
	}
	gpr_put(cpu, insn->operand[0].reg, size, value);
	set_flags(cpu, value, size, carry);
	if (insn->op == OP_BLSMSK)
		cpu->status &= (uint16_t)~ST_ZF;
}

static void bzhi(struct soft_cpu *cpu, const struct insn *insn)
{
	unsigned size = insn->operand[0].size, bits = 8 * size;
	uint64_t value = rm_get(cpu, insn, &insn->operand[1], size);
	unsigned from = (uint8_t)cpu->gpr[insn->operand[2].reg];

	if (from < bits)
		value &= (1ULL << from) - 1;
	gpr_put(cpu, insn->operand[0].reg, size, value);
	set_flags(cpu, value, size, from >= bits);
}

static void bextr(struct soft_cpu *cpu, const struct insn *insn)
{
	unsigned size = insn->operand[0].size;
	uint64_t value = rm_get(cpu, insn, &insn->operand[1], size);
	uint64_t control = cpu->gpr[insn->operand[2].reg];
	unsigned start = control & 0xff, length = control >> 8 & 0xff;

	value = start < 64 ? value >> start : 0;
	if (length < 64)
		value &= (1ULL << length) - 1;
	gpr_put(cpu, insn->operand[0].reg, size, value);
	set_flags(cpu, value, size, false);
	cpu->status &= (uint16_t)~ST_SF;
}

static void pext_pdep(struct soft_cpu *cpu, const struct insn *insn)
{
	unsigned size = insn->operand[0].size;
	uint64_t mask = rm_get(cpu, insn, &insn->operand[2], size);
	uint64_t source = cpu->gpr[insn->operand[1].reg], value;

	if (insn->op == OP_PEXT)
		__asm__("pext %2,%1,%0" : "=r"(value) : "r"(source), "r"(mask));
	else
		__asm__("pdep %2,%1,%0" : "=r"(value) : "r"(source), "r"(mask));
	gpr_put(cpu, insn->operand[0].reg, size, value);
}

static void adcx_adox(struct soft_cpu *cpu, const struct insn *insn)
{
	unsigned size = insn->operand[0].size, flag = insn->op == OP_ADCX ? ST_CF : ST_OF;
	uint64_t b = rm_get(cpu, insn, &insn->operand[1], size);
	unsigned __int128 sum = (unsigned __int128)reg_get(cpu, &insn->operand[0], size) + b +
				((cpu->status & flag) != 0);

	gpr_put(cpu, insn->operand[0].reg, size, (uint64_t)sum);
	cpu->status = (uint16_t)((cpu->status & ~flag) | (sum >> 8 * size ? flag : 0));
}

exec_fn bind_bmi(const struct insn *insn)
{
	switch (insn->op) {
	case OP_ANDN:
		return andn;
	case OP_BLSR:
	case OP_BLSMSK:
	case OP_BLSI:
		return lowest_bit;
	case OP_BZHI:
		return bzhi;
	case OP_BEXTR:
		return bextr;
	case OP_PEXT:
	case OP_PDEP:
		return pext_pdep;
	case OP_ADCX:
	case OP_ADOX:
		return adcx_adox;
	default:
		return NULL;
	}
}
