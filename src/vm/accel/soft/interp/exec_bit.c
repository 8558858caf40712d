/*
 * Bits: BT BTS BTR BTC, BSF BSR TZCNT LZCNT POPCNT, CRC32. (Intel SDM volume 2.) BSF and BSR of zero leave the destination, as every
 * processor does.
 */
#include "vm/accel/soft/interp/interp_int.h"

/* --- BT and its kin --- */

static uint64_t change_bit(unsigned op, uint64_t value, uint64_t bit)
{
	switch (op) {
	case OP_BTS:
		return value | bit;
	case OP_BTR:
		return value & ~bit;
	case OP_BTC:
		return value ^ bit;
	default:
		return value;
	}
}

static void set_carry(struct soft_cpu *cpu, bool carry)
{
	cpu->status = (uint16_t)((cpu->status & ~ST_CF) | (carry ? ST_CF : 0));
}

static void bit_register(struct soft_cpu *cpu, const struct insn *insn)
{
	unsigned size = insn->opsize;
	uint64_t at = source_get(cpu, insn, &insn->operand[1], size) & (8 * size - 1);
	uint64_t value = reg_get(cpu, &insn->operand[0], size), bit = 1ULL << at;

	set_carry(cpu, value & bit);
	if (insn->op != OP_BT)
		reg_put(cpu, &insn->operand[0], size, change_bit(insn->op, value, bit));
}

/* A register's bit number reaches beyond the operand, both ways. */
static uint64_t bit_linear(struct soft_cpu *cpu, const struct insn *insn, uint64_t *ret_bit)
{
	unsigned size = insn->opsize, shift = 64 - 8 * size;
	uint64_t offset = offset_inline(cpu, insn);
	int64_t at;

	if (insn->operand[1].kind == OPND_IMM) {
		*ret_bit = 1ULL << (insn->imm & (8 * size - 1));
	} else {
		at = (int64_t)(cpu->gpr[insn->operand[1].reg] << shift) >> shift;
		*ret_bit = 1ULL << ((uint64_t)at & (8 * size - 1));
		offset += (uint64_t)(at >> (3 + size_index(size))) * size;
		offset &= size_mask(insn->addrsize);
	}
	return seg_linear_inline(cpu, (enum insn_seg)insn->seg, offset, size, insn->op != OP_BT);
}

static void bit_memory(struct soft_cpu *cpu, const struct insn *insn)
{
	unsigned size = insn->opsize;
	uint64_t bit, linear = bit_linear(cpu, insn, &bit), value;
	void *host;

	if (insn->op == OP_BT) {
		set_carry(cpu, mem_read(cpu, linear, size) & bit);
		return;
	}
	host = mem_host_rw_inline(cpu, linear, size);
	if (host) {
		value = ram_load(host, size);
		ram_store(host, size, change_bit(insn->op, value, bit));
	} else {
		value = mem_read(cpu, linear, size);
		mem_write(cpu, linear, size, change_bit(insn->op, value, bit));
	}
	set_carry(cpu, value & bit);
}

static void bit_locked(struct soft_cpu *cpu, const struct insn *insn)
{
	unsigned size = insn->opsize;
	uint64_t bit, linear = bit_linear(cpu, insn, &bit), value;
	void *host = mem_host_rw_inline(cpu, linear, size);

	if (host) {
		value = ram_load(host, size);
		while (!ram_compare_exchange(host, size, &value, change_bit(insn->op, value, bit)))
			;
	} else {
		soft_exclusive_begin(cpu);
		value = mem_read(cpu, linear, size);
		mem_write(cpu, linear, size, change_bit(insn->op, value, bit));
		soft_exclusive_end(cpu);
	}
	set_carry(cpu, value & bit);
}

/* --- scans and counts --- */

/* Flags of the host's instruction for a value that has been extended to 64 bits: right for those that only look at CF and ZF here. */
static void scan(struct soft_cpu *cpu, const struct insn *insn)
{
	unsigned size = insn->operand[0].size;
	uint64_t value = rm_get(cpu, insn, &insn->operand[1], size);
	uint16_t status = cpu->status & (uint16_t)~ST_ZF;

	if (value == 0) {
		/* 32 bits: the upper half of the destination is not left alone by all processors; here it is. */
		cpu->status = status | ST_ZF;
		return;
	}
	gpr_put(cpu, insn->operand[0].reg, size,
		insn->op == OP_BSF ? (unsigned)__builtin_ctzll(value)
				   : 63 - (unsigned)__builtin_clzll(value));
	cpu->status = status;
}

static void count_zeroes(struct soft_cpu *cpu, const struct insn *insn)
{
	unsigned size = insn->operand[0].size, bits = 8 * size, count;
	uint64_t value = rm_get(cpu, insn, &insn->operand[1], size);

	if (value == 0)
		count = bits;
	else if (insn->op == OP_TZCNT)
		count = (unsigned)__builtin_ctzll(value);
	else
		count = (unsigned)__builtin_clzll(value) - (64 - bits);
	gpr_put(cpu, insn->operand[0].reg, size, count);
	cpu->status = (uint16_t)((cpu->status & ~(ST_CF | ST_ZF)) | (value == 0 ? ST_CF : 0) |
				 (count == 0 ? ST_ZF : 0));
}

static void popcnt(struct soft_cpu *cpu, const struct insn *insn)
{
	unsigned size = insn->operand[0].size;
	uint64_t value = rm_get(cpu, insn, &insn->operand[1], size);

	gpr_put(cpu, insn->operand[0].reg, size, (unsigned)__builtin_popcountll(value));
	cpu->status = value == 0 ? ST_ZF : 0;
}

/* --- CRC32: shown to a guest only where the host has it --- */

static void crc32c(struct soft_cpu *cpu, const struct insn *insn)
{
	uint64_t value = rm_get(cpu, insn, &insn->operand[1], insn->operand[1].size);
	uint64_t crc = (uint32_t)cpu->gpr[insn->operand[0].reg];

	switch (insn->operand[1].size) {
	case 1:
		__asm__("crc32b %b1,%k0" : "+r"(crc) : "q"(value));
		break;
	case 2:
		__asm__("crc32w %w1,%k0" : "+r"(crc) : "r"(value));
		break;
	case 4:
		__asm__("crc32l %k1,%k0" : "+r"(crc) : "r"(value));
		break;
	default:
		__asm__("crc32q %1,%0" : "+r"(crc) : "r"(value));
	}
	cpu->gpr[insn->operand[0].reg] = (uint32_t)crc;
}

exec_fn bind_bit(const struct insn *insn)
{
	switch (insn->op) {
	case OP_BT:
	case OP_BTS:
	case OP_BTR:
	case OP_BTC:
		if (insn->operand[0].kind != OPND_MEM)
			return bit_register;
		return insn->lock ? bit_locked : bit_memory;
	case OP_BSF:
	case OP_BSR:
		return scan;
	case OP_TZCNT:
	case OP_LZCNT:
		return count_zeroes;
	case OP_POPCNT:
		return popcnt;
	case OP_CRC32:
		return crc32c;
	default:
		return NULL;
	}
}
