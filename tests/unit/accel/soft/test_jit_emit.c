/* What the translator's encoder writes, read back by the decoder (which another decoder judges in test_decode.c): every register
 * and every kind of address, in random combinations. */
#include "unit/test.h"

#include "vm/accel/soft/isa/insn.h"
#include "vm/accel/soft/jit/emit.h"

#define ALL_FEATURES (~(cpu_features_t)0)
#define ROUNDS       20000

static uint64_t seed = 0x1234567;

static unsigned pick(unsigned n)
{
	seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
	return (unsigned)(seed >> 33) % n;
}

static int32_t pick_disp(void)
{
	switch (pick(4)) {
	case 0:
		return 0;
	case 1:
		return (int32_t)pick(256) - 128;
	case 2:
		return (int32_t)pick(600) - 300;
	default:
		return (int32_t)(seed >> 16);
	}
}

static struct emit_rm pick_rm(bool may_be_reg)
{
	struct emit_rm rm = {.base = H_NONE, .index = H_NONE, .scale = 1};

	if (may_be_reg && pick(3) == 0)
		return rm_reg(pick(16));
	if (pick(8) == 0)
		return rm_gs(pick(4096));
	if (pick(6) != 0)
		rm.base = (uint8_t)pick(16);
	if (pick(3) == 0) {
		rm.index = (uint8_t)pick(16);
		rm.scale = (uint8_t)(1 << pick(4));
		if (rm.index == H_RSP) {
			rm.index = H_NONE;
			rm.scale = 1;
		}
	}
	rm.disp = pick_disp();
	return rm;
}

static struct insn decode(const struct emit *e)
{
	struct insn insn;

	assert_false(e->full);
	assert_int_equal(insn_decode(e->start, (size_t)(e->p - e->start), INSN_MODE_64, true,
				     ALL_FEATURES, &insn),
			 INSN_OK);
	assert_int_equal(insn.length, e->p - e->start);
	return insn;
}

static const struct insn_operand *by_field(const struct insn *insn, enum insn_field field)
{
	for (unsigned n = 0; n < insn->n_operands; n++)
		if (insn->operand[n].field == field)
			return &insn->operand[n];
	fail_msg("no such operand");
	return NULL;
}

static void check_rm(const struct insn *insn, const struct emit_rm *rm, unsigned size)
{
	const struct insn_operand *op = by_field(insn, FIELD_RM);

	if (rm->is_reg) {
		assert_int_equal(op->kind, OPND_GPR);
		assert_int_equal(op->reg, rm->reg);
	} else {
		assert_int_equal(op->kind, OPND_MEM);
		assert_int_equal(insn->base, rm->base == H_NONE ? INSN_REG_NONE : rm->base);
		assert_int_equal(insn->index, rm->index == H_NONE ? INSN_REG_NONE : rm->index);
		if (rm->index != H_NONE)
			assert_int_equal(insn->scale, rm->scale);
		assert_int_equal(insn->disp, rm->disp);
		assert_int_equal(insn->seg == SEG_GS, rm->gs);
	}
	if (size != 0)
		assert_int_equal(op->size, size);
}

static void check_reg(const struct insn *insn, unsigned reg, unsigned size)
{
	const struct insn_operand *op = by_field(insn, FIELD_REG);

	assert_int_equal(op->kind, OPND_GPR);
	assert_int_equal(op->reg, reg);
	assert_int_equal(op->size, size);
}

static void test_integer(void **state)
{
	static const unsigned ops[] = {OP_ADD, OP_OR,  OP_ADC, OP_SBB,
				       OP_AND, OP_SUB, OP_XOR, OP_CMP};
	uint8_t buf[32];
	struct emit e;

	(void)state;
	for (unsigned n = 0; n < ROUNDS; n++) {
		unsigned size = 1u << pick(4), reg = pick(16), op = pick(8);
		struct emit_rm rm = pick_rm(true);
		int32_t imm = size == 1   ? (int8_t)pick_disp()
			      : size == 2 ? (int16_t)pick_disp()
					  : pick_disp();
		struct insn insn;

		emit_init(&e, buf, sizeof(buf), 0);
		emit_alu_rm(&e, (enum alu_op)op, size, reg, rm);
		insn = decode(&e);
		assert_int_equal(insn.op, ops[op]);
		check_reg(&insn, reg, size);
		check_rm(&insn, &rm, size);
		assert_true(insn.operand[0].field == FIELD_REG);

		emit_init(&e, buf, sizeof(buf), 0);
		emit_alu_mr(&e, (enum alu_op)op, size, rm, reg);
		insn = decode(&e);
		assert_true(insn.operand[0].field == FIELD_RM);
		check_rm(&insn, &rm, size);

		emit_init(&e, buf, sizeof(buf), 0);
		emit_alu_ri(&e, (enum alu_op)op, size, rm, imm);
		insn = decode(&e);
		assert_int_equal(insn.op, ops[op]);
		check_rm(&insn, &rm, size);
		assert_int_equal(size == 1 ? (uint64_t)(int64_t)(int8_t)insn.imm : insn.imm,
				 (uint64_t)(int64_t)imm);
	}
}

static void test_moves(void **state)
{
	uint8_t buf[32];
	struct emit e;

	(void)state;
	for (unsigned n = 0; n < ROUNDS; n++) {
		unsigned size = 1u << pick(4), reg = pick(16);
		struct emit_rm rm = pick_rm(false);
		uint64_t value = seed >> pick(64);
		struct insn insn;

		emit_init(&e, buf, sizeof(buf), 0);
		emit_load(&e, size, reg, rm);
		insn = decode(&e);
		assert_int_equal(insn.op, size <= 2 ? OP_MOVZX : OP_MOV);
		check_rm(&insn, &rm, size);
		check_reg(&insn, reg, size <= 2 ? 4 : size);

		emit_init(&e, buf, sizeof(buf), 0);
		emit_store(&e, size, rm, reg);
		insn = decode(&e);
		assert_int_equal(insn.op, OP_MOV);
		check_rm(&insn, &rm, size);
		check_reg(&insn, reg, size);

		if (size != 1) {
			emit_init(&e, buf, sizeof(buf), 0);
			emit_lea(&e, size, reg, rm);
			insn = decode(&e);
			assert_int_equal(insn.op, OP_LEA);
			check_rm(&insn, &rm, 0);
			check_reg(&insn, reg, size);
		}

		emit_init(&e, buf, sizeof(buf), 0);
		emit_mov_ri(&e, reg, value);
		insn = decode(&e);
		assert_int_equal(insn.op, OP_MOV);
		assert_int_equal(insn.operand[0].reg, reg);
		assert_int_equal(insn.operand[0].size == 4 ? (uint32_t)insn.imm : insn.imm, value);
	}
}

/* Jumps lead where they should, from where the code is executed; their displacements can be changed in one store. */
static void test_jumps(void **state)
{
	_Alignas(16) uint8_t buf[64];
	const ptrdiff_t exec = 0x100000;
	struct emit e;

	(void)state;
	for (unsigned n = 0; n < ROUNDS; n++) {
		unsigned start = pick(16), cond = pick(16);
		const uint8_t *target = (const uint8_t *)((uintptr_t)buf + (uintptr_t)exec +
							  (uintptr_t)(intptr_t)(pick_disp() / 4));
		uint8_t *disp;
		struct insn insn;
		unsigned at;

		emit_init(&e, buf, sizeof(buf), exec);
		emit_nops(&e, start);
		disp = emit_jcc_aligned(&e, cond, NULL);
		assert_non_null(disp);
		assert_int_equal((uintptr_t)disp % 4, 0);
		emit_patch(&e, disp, target);
		at = (unsigned)(disp - buf) - 2;
		assert_int_equal(insn_decode(buf + at, 6, INSN_MODE_64, true, ALL_FEATURES, &insn),
				 INSN_OK);
		assert_int_equal(insn.op, OP_JCC);
		assert_int_equal(insn.cond, cond);
		assert_int_equal((uintptr_t)buf + at + 6 + (uintptr_t)exec + insn.imm,
				 (uintptr_t)target);
	}
}

/* What does not fit is said, and nothing is written behind the end. */
static void test_full(void **state)
{
	uint8_t buf[32];
	struct emit e;

	(void)state;
	for (unsigned room = 0; room < 10; room++) {
		memset(buf, 0xaa, sizeof(buf));
		emit_init(&e, buf, room, 0);
		emit_mov_ri(&e, H_R9, 0x123456789abcdef);
		assert_int_equal(e.full, room < 10);
		assert_null(emit_jmp(&e, NULL));
		for (unsigned n = room; n < sizeof(buf); n++)
			assert_int_equal(buf[n], 0xaa);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_integer),
		cmocka_unit_test(test_moves),
		cmocka_unit_test(test_jumps),
		cmocka_unit_test(test_full),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
