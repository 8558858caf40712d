/*
 * The stubs: pieces of machine code through which C enters translated code, and translated code calls C. Made once for a machine,
 * in the code memory's first bytes.
 *
 * A stub that calls C stores the guest's registers to cpu->gpr, saves the x87 and vector state if it is live (C code uses those registers), and
 * calls; the function's result is where to go on (registers and flags are loaded again, also vector state if it was live), or NULL: leave.
 */
#include "vm/accel/soft/jit/jit_int.h"

#include <errno.h>
#include <string.h>

const uint8_t jit_host_of[16] = {
	H_RAX, H_RCX,  H_RDX,  H_RBX,  H_R15, H_RBP, H_RSI, H_RDI,
	H_R8,  H_NONE, H_NONE, H_NONE, H_R12, H_R13, H_R14, H_NONE,
};

#define FPU_OFF    CPU_OFF(fpu)
#define FPU_HEADER (CPU_OFF(fpu) + 512) /* SDM volume 1, section 13.4.2 */

static void registers(struct emit *e, bool store)
{
	for (unsigned reg = 0; reg < 16; reg++) {
		if (jit_host_of[reg] == H_NONE)
			continue;
		if (store)
			emit_store(e, 8, rm_gs(GPR_OFF(reg)), jit_host_of[reg]);
		else
			emit_load(e, 8, jit_host_of[reg], rm_gs(GPR_OFF(reg)));
	}
}

static void xsave(struct emit *e, const struct soft_jit *jit, bool restore)
{
	struct emit_enc enc = {.map = 1, .opcode = 0xae, .w = true};

	emit_mov_ri(e, H_RAX, jit->has_avx ? 7 : 3);
	emit_mov_ri(e, H_RDX, 0);
	emit_insn(e, &enc, restore ? 5 : 4, rm_gs(FPU_OFF));
}

/* Leaves 1 or 0 in SLOT_FPU_LIVE's second byte: whether it was live. rax, rdx are lost. */
static void save_fpu(struct emit *e, const struct soft_jit *jit)
{
	struct emit_enc ldmxcsr = {.map = 1, .opcode = 0xae};
	uint8_t *not_live, *clean, *dirty;

	emit_alu_ri(e, ALU_CMP, 1, rm_gs(SLOT_OFF(SLOT_FPU_LIVE)), 0);
	not_live = emit_jcc(e, CC_E, NULL);
	xsave(e, jit, false);
	emit_store_imm(e, 2, rm_gs(SLOT_OFF(SLOT_FPU_LIVE)), 0x0100);
	/* The addresses of the last x87 instruction and its operand are the host's: no guest is to see them. */
	emit_store_imm(e, 8, rm_gs(FPU_OFF + 8), 0);
	emit_store_imm(e, 8, rm_gs(FPU_OFF + 16), 0);
	/* C code expects the default controls and an empty x87 stack. */
	emit_store_imm(e, 4, rm_gs(SLOT_OFF(SLOT_SPILL)), 0x1f80);
	emit_insn(e, &ldmxcsr, 2, rm_gs(SLOT_OFF(SLOT_SPILL)));
	emit_alu_ri(e, ALU_CMP, 1, rm_gs(FPU_OFF + 4), 0);
	dirty = emit_jcc(e, CC_NE, NULL);
	emit_alu_ri(e, ALU_CMP, 2, rm_gs(FPU_OFF), 0x37f);
	clean = emit_jcc(e, CC_E, NULL);
	emit_patch_here(e, dirty);
	emit_u8(e, 0xdb); /* fninit */
	emit_u8(e, 0xe3);
	emit_patch_here(e, clean);
	emit_patch_here(e, not_live);
}

/* rax, rdx are lost. */
static void load_fpu(struct emit *e, const struct soft_jit *jit)
{
	emit_store_imm(e, 8, rm_gs(FPU_HEADER), jit->has_avx ? 7 : 3);
	emit_store_imm(e, 8, rm_gs(FPU_HEADER + 8), 0);
	xsave(e, jit, true);
	emit_store_imm(e, 2, rm_gs(SLOT_OFF(SLOT_FPU_LIVE)), 1);
}

static void load_flags(struct emit *e)
{
	emit_load(e, 2, H_RAX, rm_gs(CPU_OFF(status)));
	emit_u8(e, 0x04); /* add al, 127: OF */
	emit_u8(e, 127);
	emit_u8(e, 0x9e); /* sahf */
}

/* SLOT_TARGET is where to go on. */
static void resume(struct emit *e)
{
	struct emit_enc jmp = {.opcode = 0xff};

	load_flags(e);
	registers(e, false);
	emit_load(e, 8, S1, rm_gs(SLOT_OFF(SLOT_STACK_ADDEND)));
	emit_insn(e, &jmp, 4, rm_gs(SLOT_OFF(SLOT_TARGET)));
}

static void leave(struct emit *e)
{
	static const uint8_t pops[] = {
		0x48, 0x83, 0xc4, 0x08,                         /* add rsp, 8 */
		0x41, 0x5f, 0x41, 0x5e, 0x41, 0x5d, 0x41, 0x5c, /* pop r15 r14 r13 r12 */
		0x5b, 0x5d, 0xc3,                               /* pop rbx rbp; ret */
	};

	emit_store_imm(e, 2, rm_gs(SLOT_OFF(SLOT_FPU_LIVE)), 0);
	emit_bytes(e, pops, sizeof(pops));
}

static void enter(struct emit *e)
{
	static const uint8_t pushes[] = {
		0x55, 0x53,                                     /* push rbp rbx */
		0x41, 0x54, 0x41, 0x55, 0x41, 0x56, 0x41, 0x57, /* push r12 r13 r14 r15 */
		0x48, 0x83, 0xec, 0x08,                         /* sub rsp, 8 */
	};

	emit_bytes(e, pushes, sizeof(pushes));
	emit_store(e, 8, rm_gs(SLOT_OFF(SLOT_TARGET)), H_RSI);
	resume(e);
}

/* fn(cpu, S3, S1). */
static const uint8_t *call_stub(struct emit *e, const struct soft_jit *jit, const void *fn,
				bool save_flags)
{
	const uint8_t *at;
	uint8_t *was_not_live, *to_leave;

	emit_align(e, 16);
	at = emit_here(e);
	emit_store(e, 8, rm_gs(GPR_OFF(0)), H_RAX);
	if (save_flags) {
		struct emit_enc seto = {.map = 1, .opcode = 0x90, .byte_rm = true};

		emit_u8(e, 0x9f); /* lahf */
		emit_insn(e, &seto, 0, rm_reg(H_RAX));
		emit_store(e, 2, rm_gs(CPU_OFF(status)), H_RAX);
		emit_load(e, 8, H_RAX, rm_gs(GPR_OFF(0)));
	}
	registers(e, true);
	emit_store(e, 8, rm_gs(SLOT_OFF(SLOT_SITE)), S3);
	save_fpu(e, jit);
	emit_load(e, 8, H_RDI, rm_gs(SLOT_OFF(SLOT_SELF)));
	emit_mov_rr(e, 8, H_RSI, S3);
	emit_mov_rr(e, 8, H_RDX, S1);
	emit_call(e, fn);
	emit_alu_ri(e, ALU_CMP, 8, rm_reg(H_RAX), 0);
	to_leave = emit_jcc(e, CC_E, NULL);
	emit_store(e, 8, rm_gs(SLOT_OFF(SLOT_TARGET)), H_RAX);
	emit_alu_ri(e, ALU_CMP, 2, rm_gs(SLOT_OFF(SLOT_FPU_LIVE)), 0x0100);
	was_not_live = emit_jcc(e, CC_NE, NULL);
	load_fpu(e, jit);
	emit_patch_here(e, was_not_live);
	resume(e);
	emit_patch_here(e, to_leave);
	leave(e);
	return at;
}

/* Called (not jumped to) by a block: loads the state; flags are free, S2 and S3 are lost. */
static const uint8_t *fpu_stub(struct emit *e, const struct soft_jit *jit)
{
	const uint8_t *at;

	emit_align(e, 16);
	at = emit_here(e);
	emit_mov_rr(e, 8, S2, H_RAX);
	emit_mov_rr(e, 8, S3, H_RDX);
	load_fpu(e, jit);
	emit_mov_rr(e, 8, H_RAX, S2);
	emit_mov_rr(e, 8, H_RDX, S3);
	emit_u8(e, 0xc3);
	return at;
}

/* S3 is the offset in the code page where to go on later; status flags are in cpu->status, or dead. */
static const uint8_t *poll_stub(struct emit *e, const struct soft_jit *jit)
{
	const uint8_t *at;

	emit_align(e, 16);
	at = emit_here(e);
	registers(e, true);
	save_fpu(e, jit);
	emit_alu_rm(e, ALU_ADD, 8, S3, rm_gs(SLOT_OFF(SLOT_CODE_PAGE)));
	emit_store(e, 8, rm_gs(CPU_OFF(rip)), S3);
	leave(e);
	return at;
}

int jit_stubs_make(struct soft_jit *jit, struct error *err)
{
	struct emit *e = &jit->emit;
	struct jit_stubs *stubs = &jit->stubs;

	emit_init(e, jit->mem.rw, jit->stub_bytes, jit->mem.rx - jit->mem.rw);
	stubs->enter = emit_here(e);
	enter(e);
	stubs->leave = emit_here(e);
	leave(e);
	stubs->memory = call_stub(e, jit, (const void *)jit_on_memory, false);
	stubs->exec = call_stub(e, jit, (const void *)jit_on_exec, false);
	stubs->link = call_stub(e, jit, (const void *)jit_on_link, true);
	stubs->jump = call_stub(e, jit, (const void *)jit_on_jump, false);
	stubs->poll = poll_stub(e, jit);
	stubs->fpu_load = fpu_stub(e, jit);
	/* A block that is dead sends those who enter by its address here. */
	emit_align(e, 16);
	stubs->dead = emit_here(e);
	emit_mov_ri(e, S3, 0);
	emit_jmp(e, stubs->jump);
	return e->full ? error_set(err, -ENOSPC, "the translator's stubs do not fit") : 0;
}
