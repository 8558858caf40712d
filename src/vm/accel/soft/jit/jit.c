/*
 * The translator's life: of a machine, and of a vCPU.
 */
#include "vm/accel/soft/jit/trans.h"

#include <cpuid.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"

#define STUB_BYTES (16u << 10)
#define HALF_BYTES (64u << 20) /* taken from the host as it fills */

static bool host_has_avx(void)
{
	unsigned a, b, c, d, low, high;

	if (__get_cpuid(1, &a, &b, &c, &d) == 0 || (c & bit_OSXSAVE) == 0 || (c & bit_AVX) == 0)
		return false;
	__asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
	return (low & 6) == 6;
}

/* VIREO_SOFT_DEBUG: for those who work on the translator. */
static bool debug_wants(const char *word)
{
	const char *text = getenv("VIREO_SOFT_DEBUG");

	return text != NULL && strstr(text, word) != NULL;
}

static bool host_has_xsave(void)
{
	unsigned a, b, c, d;

	return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_OSXSAVE) != 0;
}

int jit_init(struct soft *soft, struct error *err)
{
	struct soft_jit *jit;
	int r;

	if (!host_has_xsave())
		return error_set(err, -EACCES, "the translator needs a processor with XSAVE");
	jit = calloc(1, sizeof(*jit));
	if (jit == NULL)
		return error_set(err, -ENOMEM, "the translator: out of memory");
	jit->trans = calloc(1, sizeof(*jit->trans));
	if (jit->trans == NULL) {
		free(jit);
		return error_set(err, -ENOMEM, "the translator: out of memory");
	}
	jit->soft = soft;
	jit->stats = debug_wants("stats");
	jit->lockstep = debug_wants("lockstep");
	jit->has_avx = host_has_avx();
	jit->stub_bytes = STUB_BYTES;
	jit->half_bytes = HALF_BYTES;
	r = codemem_open(&jit->mem, "vireo-translated", STUB_BYTES + JIT_HALVES * HALF_BYTES, err);
	if (r == 0)
		r = jit_stubs_make(jit, err);
	if (r < 0) {
		codemem_close(&jit->mem);
		free(jit->trans);
		free(jit);
		return r;
	}
	emit_init(&jit->emit, jit->mem.rw + STUB_BYTES, HALF_BYTES, jit->mem.rx - jit->mem.rw);
	pthread_mutex_init(&jit->lock, NULL);
	atomic_init(&jit->epoch, 1);
	soft->jit = jit;
	soft->on_code_written = jit_cache_written;
	return 0;
}

void jit_fini(struct soft *soft)
{
	struct soft_jit *jit = soft->jit;

	if (jit == NULL)
		return;
	if (jit->stats)
		log_info("translator: %" PRIu64 " blocks of %" PRIu64 " instructions, %" PRIu64
			 " of them in C; %" PRIu64 " blocks dropped, %" PRIu64 " turns",
			 jit->n_blocks, jit->n_insns, jit->n_fallbacks, jit->n_invalidated,
			 jit->n_flushes);
	soft->jit = NULL;
	soft->on_code_written = NULL;
	for (unsigned n = 0; n < JIT_HALVES; n++)
		arena_free(&jit->arena[n]);
	codemem_close(&jit->mem);
	pthread_mutex_destroy(&jit->lock);
	free(jit->trans);
	free(jit);
}

int jit_cpu_init(struct soft_cpu *cpu)
{
	struct soft_jit_cpu *j = calloc(1, sizeof(*j));

	if (j == NULL)
		return -ENOMEM;
	atomic_init(&j->epoch, UINT_MAX);
	j->window[0].page = j->window[1].page = 1;
	cpu->jit = j;
	jit_window_drop(cpu);
	return 0;
}

void jit_cpu_fini(struct soft_cpu *cpu)
{
	struct soft_jit_cpu *j = cpu->jit;

	if (j == NULL)
		return;
	if (cpu->soft->jit->stats)
		log_info("translator, vCPU %u: entered %" PRIu64 ", memory %" PRIu64
			 ", window %" PRIu64 ", in C %" PRIu64 ", jumps %" PRIu64 ", links %" PRIu64
			 ", steps %" PRIu64 ", flushes %" PRIu64,
			 cpu->base.index, j->counts.enter, j->counts.memory, j->counts.window,
			 j->counts.exec, j->counts.jump, j->counts.link, j->counts.step,
			 j->flushes);
	jit_lockstep_free(cpu);
	cpu->jit = NULL;
	for (unsigned key = 0; key < KEY_MODES; key++)
		for (unsigned space = 0; space < JIT_SPACES; space++)
			free(j->jumps[key][space]);
	free(j);
}
