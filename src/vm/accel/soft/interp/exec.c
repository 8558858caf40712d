/*
 * Which function executes an instruction: the integer ones here, then system instructions, then vector and x87 ones; what nobody has raises #UD
 * and is counted. Also the effective address, for all of them. Any thread binds; functions run on the vCPU's own.
 */
#include "base/log.h"
#include "vm/accel/soft/interp/interp_int.h"

uint64_t insn_offset(const struct soft_cpu *cpu, const struct insn *insn)
{
	return offset_inline(cpu, insn);
}

exec_fn exec_bind_int(const struct insn *insn)
{
	static exec_fn (*const binders[])(const struct insn *) = {
		bind_alu,  bind_mov, bind_shift,  bind_stack, bind_branch, bind_bit,
		bind_misc, bind_mul, bind_string, bind_bmi,   bind_atomic, bind_decimal,
	};
	exec_fn fn = NULL;

	for (size_t i = 0; !fn && i < sizeof(binders) / sizeof(binders[0]); i++)
		fn = binders[i](insn);
	return fn;
}

/* No instruction. */
static void undefined(struct soft_cpu *cpu, const struct insn *insn)
{
	(void)insn;
	cpu_raise(cpu, VEC_UD);
}

/* An instruction that is shown to guests and not implemented. */
static void unknown(struct soft_cpu *cpu, const struct insn *insn)
{
	if (cpu->n_unknown++ == 0)
		log_warning(
			"the software CPU does not know %s (%s), which the guest executed at 0x%llx: #UD",
			insn->form->name, insn->form->where, (unsigned long long)cpu->rip);
	cpu_raise(cpu, VEC_UD);
}

exec_fn exec_bind(const struct insn *insn)
{
	exec_fn fn;

	if (insn->op == OP_NONE)
		return undefined;
	fn = exec_bind_int(insn);
	if (!fn)
		fn = exec_bind_sys(insn);
	if (!fn)
		fn = exec_bind_vec(insn);
	return fn ? fn : unknown;
}
