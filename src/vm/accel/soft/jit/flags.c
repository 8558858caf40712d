/*
 * Where the guest's status flags are, along a block. The code between guest instructions clobbers the host's flags: when some that matter
 * are only there, they are saved to cpu->status first (LAHF and SETO), and come back before an instruction that reads them.
 *
 * Flags that are overwritten before anything reads them do not matter: they are not preserved, and an exception's frame may show other values.
 */
#include "vm/accel/soft/jit/trans.h"

void trans_flags_save(struct trans *t)
{
	struct emit_enc seto = {.map = 1, .opcode = 0x90, .byte_rm = true};

	if ((t->flags & FLAGS_SAVED) != 0)
		return;
	emit_mov_rr(t->e, 8, S3, H_RAX);
	emit_u8(t->e, 0x9f); /* lahf */
	emit_insn(t->e, &seto, 0, rm_reg(H_RAX));
	emit_store(t->e, 2, rm_gs(CPU_OFF(status)), H_RAX);
	emit_mov_rr(t->e, 8, H_RAX, S3);
	t->flags |= FLAGS_SAVED;
}

void trans_flags_need(struct trans *t)
{
	if ((t->flags & FLAGS_HOST) != 0)
		return;
	emit_mov_rr(t->e, 8, S3, H_RAX);
	emit_load(t->e, 2, H_RAX, rm_gs(CPU_OFF(status)));
	emit_u8(t->e, 0x04); /* add al, 127 */
	emit_u8(t->e, 127);
	emit_u8(t->e, 0x9e); /* sahf */
	emit_mov_rr(t->e, 8, H_RAX, S3);
	t->flags |= FLAGS_HOST;
}

void trans_flags_clobber(struct trans *t)
{
	if (t->live[t->i] != 0) {
		trans_flags_save(t);
		t->flags &= ~FLAGS_HOST;
	}
}

void trans_flags_before(struct trans *t)
{
	unsigned after = t->live[t->i + 1], written = t->in[t->i].form->flags_written & INSN_STATUS;

	/* What it leaves alone must be in the host's flags if what it writes will matter. */
	if (t->reads[t->i] != 0 ||
	    ((written & after) != 0 && (after & ~t->writes[t->i] & INSN_STATUS) != 0))
		trans_flags_need(t);
}

void trans_flags_after(struct trans *t)
{
	unsigned written = t->in[t->i].form->flags_written & INSN_STATUS;

	if (written == 0)
		return;
	if ((written & t->live[t->i + 1]) != 0)
		t->flags = FLAGS_HOST;
	else if (t->live[t->i + 1] == 0)
		t->flags |= FLAGS_HOST;
	else if ((t->flags & FLAGS_HOST) != 0)
		t->flags = FLAGS_HOST;
	/* Otherwise only cpu->status has what matters, and that was not touched. */
}
