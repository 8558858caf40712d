/*
 * Thunks: native code for one instruction each, made when an encoding is first met. Register numbers are no part of it, so that what there
 * can be at all is bounded by the forms, a few variants and the immediate byte, and nothing has to be thrown away.
 *
 * Readers look a thunk up without a lock; the maker holds one. The code is complete before its pointer is published, and never changes.
 */
#include <errno.h>
#include <stdlib.h>

#include "vm/accel/soft/vec/vec_int.h"

#define N_IMM 256

static bool has_imm_byte(const struct insn *insn)
{
	for (unsigned i = 0; i < insn->n_operands; i++)
		if (insn->operand[i].kind == OPND_IMM || insn->operand[i].field == FIELD_IMM)
			return true;
	return false;
}

unsigned vec_thunk_slot(const struct insn *insn)
{
	unsigned variant = insn->form->attrs & FORM_X87 ? insn->modrm & 7
							: (unsigned)(insn->modrm >= 0xc0) << 2 |
								  insn->vex_l << 1 | insn->rex_w;

	return insn->form->id * THUNK_VARIANTS + variant;
}

/* The place for insn's thunk in the tables; NULL: no memory. */
static void *_Atomic *place_locked(struct soft_vec *vec, const struct insn *insn)
{
	void *_Atomic *place = &vec->thunks[vec_thunk_slot(insn)];

	if (!has_imm_byte(insn))
		return place;
	if (!*place)
		*place = calloc(N_IMM, sizeof(void *));
	return *place ? (void *_Atomic *)*place + vec_imm(insn) : NULL;
}

vec_thunk vec_thunk_make(struct soft_cpu *cpu, const struct insn *insn)
{
	struct soft_vec *vec = cpu->soft->vec;
	void *_Atomic *place;
	void *code = NULL;

	pthread_mutex_lock(&vec->lock);
	place = place_locked(vec, insn);
	if (place && !*place && vec->used + THUNK_MAX_BYTES <= vec->code.size) {
		size_t length = vec_emit(vec->code.rw + vec->used, insn);

		*place = vec->code.rx + vec->used;
		vec->used += (length + 15) & ~(size_t)15;
	}
	if (place)
		code = *place;
	pthread_mutex_unlock(&vec->lock);
	if (!code)
		cpu_raise(cpu, VEC_UD);
	return (vec_thunk)(uintptr_t)code;
}

static uint32_t host_mxcsr_mask(void)
{
	struct {
		_Alignas(16) uint8_t bytes[512];
	} area = {{0}};
	uint32_t mask;

	__asm__ volatile("fxsave %0" : "+m"(area));
	memcpy(&mask, area.bytes + FPU_MXCSR_MASK, sizeof(mask));
	/* Bit 17 would switch alignment checks off (APM volume 1, section 4.2.2): not shown. */
	return (mask ? mask : 0xffbf) & 0xffff;
}

int vec_init(struct soft *soft, struct error *err)
{
	struct soft_vec *vec = calloc(1, sizeof(*vec));
	int r;

	if (!vec)
		return -ENOMEM;
	soft->vec = vec;
	pthread_mutex_init(&vec->lock, NULL);
	vec->mxcsr_mask = host_mxcsr_mask();
	vec->thunks = calloc(insn_n_forms * THUNK_VARIANTS, sizeof(*vec->thunks));
	r = vec->thunks ? codemem_open(&vec->code, "vireo-thunks", THUNK_CODE_BYTES, err) : -ENOMEM;
	if (r >= 0)
		r = vec_trap_install(err);
	if (r < 0)
		vec_fini(soft);
	return r;
}

/* Whether a form's slots hold tables: what vec_thunk_make() has seen of it is not kept, but a thunk is code and a table is not. */
static bool is_code(const struct soft_vec *vec, const void *p)
{
	uintptr_t at = (uintptr_t)p - (uintptr_t)vec->code.rx;

	return at < vec->code.size;
}

void vec_fini(struct soft *soft)
{
	struct soft_vec *vec = soft->vec;

	if (!vec)
		return;
	for (size_t i = 0; vec->thunks && i < insn_n_forms * THUNK_VARIANTS; i++)
		if (!is_code(vec, vec->thunks[i]))
			free(vec->thunks[i]);
	free(vec->thunks);
	codemem_close(&vec->code);
	pthread_mutex_destroy(&vec->lock);
	free(vec);
	soft->vec = NULL;
}
