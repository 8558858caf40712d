/* What the translator does around translated code: code that changes itself, code that crosses pages, requests at every boundary, code memory that is
 * emptied, and several vCPUs in the same code. */
#include "jit_rig.h"

#include <pthread.h>

#include "vm/accel/soft/interp/code.h"

static struct jr_state first, by_interpreter, by_translator;

static void start(struct jr *r, unsigned off, const uint8_t *code, size_t n)
{
	jr_set_code(r, off, code, n);
	memset(&first, 0, sizeof(first));
	memcpy(first.ram, r->ram, JR_RAM);
	first.rip = JR_CODE + off;
	first.rflags = RF_ONE;
	first.status = 0x200;
	first.gpr[4] = JR_DATA + 0x3000;
	first.gpr[5] = JR_DATA;
	first.fpu[0] = 0x7f;
	first.fpu[1] = 3;
	first.fpu[24] = 0x80;
	first.fpu[25] = 0x1f;
}

/* The same by both, in all that a guest can see; the x87's last instruction aside. */
static void both(struct jr *r)
{
	jr_load(r, &first);
	assert_true(jr_interpret(r));
	jr_save(r, &by_interpreter);
	jr_load(r, &first);
	assert_true(jr_translate(r));
	jr_save(r, &by_translator);
	assert_memory_equal(by_interpreter.gpr, by_translator.gpr, sizeof(by_interpreter.gpr));
	assert_int_equal(by_interpreter.rip, by_translator.rip);
	assert_int_equal(by_interpreter.status & ~0x200, by_translator.status & ~0x200);
	assert_memory_equal(by_interpreter.ram, by_translator.ram, JR_RAM);
}

/* ecx rounds: writes another immediate into a function in its own page (or the next one) and calls it; ebx has the sum. */
static size_t self_modifying(uint8_t *code, unsigned function)
{
	static const uint8_t loop[] = {
		0xb9, 0x00, 0x01, 0x00, 0x00,          /* mov ecx, 256 */
		0x31, 0xdb,                            /* xor ebx, ebx */
		0x48, 0x8d, 0x3d, 0,    0,    0,    0, /* lea rdi, [function] */
		0x69, 0xc1, 0x0b, 0x01, 0x00, 0x00,    /* imul eax, ecx, 267 */
		0x89, 0x47, 0x01,                      /* mov [rdi + 1], eax */
		0xff, 0xd7,                            /* call rdi */
		0x01, 0xc3,                            /* add ebx, eax */
		0xff, 0xc9,                            /* dec ecx */
		0x75, 0xef,                            /* jnz to imul */
		0xf4,                                  /* hlt */
	};
	static const uint8_t body[] = {0xb8, 0, 0, 0, 0, 0xc3}; /* mov eax, imm; ret */
	int32_t disp = (int32_t)function - 14;

	memcpy(code, loop, sizeof(loop));
	memcpy(code + 10, &disp, 4);
	memcpy(code + function, body, sizeof(body));
	return function + sizeof(body);
}

static void test_self_modifying(void **state)
{
	static const unsigned functions[] = {40, 64, 200, 3000, 4096, 5000};
	static uint8_t code[6000];
	struct jr r;

	(void)state;
	jr_init(&r, 1);
	for (size_t n = 0; n < sizeof(functions) / sizeof(functions[0]); n++) {
		size_t bytes = self_modifying(code, functions[n]);
		uint32_t sum = 0;

		for (uint32_t i = 1; i <= 256; i++)
			sum += i * 267;
		start(&r, 0, code, bytes);
		both(&r);
		assert_int_equal((uint32_t)by_translator.gpr[3], sum);
	}
	assert_true(r.soft->jit->n_invalidated > 256);
	jr_fini(&r);
}

/* A store into the very block that it is in: the next instruction is the new one. */
static void test_next_instruction(void **state)
{
	static const uint8_t code[] = {
		0xc6, 0x05, 0x01, 0x00, 0x00, 0x00, 0x2a, /* mov byte [rip + 1], 42 */
		0xb0, 0x07,                               /* mov al, 7 */
		0xf4,
	};
	struct jr r;

	(void)state;
	jr_init(&r, 1);
	for (unsigned off = 0; off < 64; off++) {
		start(&r, off, code, sizeof(code));
		both(&r);
		assert_int_equal(by_translator.gpr[0], 42);
	}
	jr_fini(&r);
}

/* A loop over stack, memory and flags, at each place around a page's end, through both linear addresses. */
static void test_page_ends(void **state)
{
	static const uint8_t code[] = {
		0xb9, 0x40, 0x00, 0x00, 0x00, /* mov ecx, 64 */
		0x51,                         /* push rcx */
		0x48, 0x01, 0x4d, 0x08,       /* add [rbp + 8], rcx */
		0xf9,                         /* stc */
		0x48, 0x13, 0x45, 0x08,       /* adc rax, [rbp + 8] */
		0x9c,                         /* pushfq */
		0x5a,                         /* pop rdx */
		0x48, 0x31, 0x55, 0x10,       /* xor [rbp + 16], rdx */
		0x59,                         /* pop rcx */
		0xe8, 0x06, 0x00, 0x00, 0x00, /* call +6 */
		0xff, 0xc9,                   /* dec ecx */
		0x75, 0xe6,                   /* jnz to push */
		0xf4, 0x90,                   /* hlt; nop */
		0x4c, 0x8d, 0x14, 0x08,       /* lea r10, [rax + rcx] */
		0x4d, 0x01, 0xd3,             /* add r11, r10 */
		0xc3,                         /* ret */
	};
	struct jr r;

	(void)state;
	jr_init(&r, 1);
	for (unsigned off = 4096 - sizeof(code) - 2; off < 4096 + 4; off++) {
		start(&r, off, code, sizeof(code));
		both(&r);
		first.rip = JR_ALIAS + off;
		both(&r);
	}
	/* The stack too: frames that cross from one page into the next. */
	for (unsigned at = 0; at < 64; at++) {
		start(&r, 0x100, code, sizeof(code));
		first.gpr[4] = JR_DATA + 0x2000 + at;
		both(&r);
	}
	jr_fini(&r);
}

struct nagger {
	struct soft_cpu *cpu;
	atomic_bool stop;
};

static void *nag(void *arg)
{
	struct nagger *n = arg;
	unsigned wait = 1;

	while (!atomic_load(&n->stop)) {
		atomic_fetch_or(&n->cpu->request, REQ_SELF);
		for (unsigned i = 0; i < wait; i++)
			__builtin_ia32_pause();
		wait = wait % 97 + 1;
	}
	return NULL;
}

/* Requests without pause: translated code is left wherever that is possible, and goes on as if nothing was. */
static void test_requests(void **state)
{
	static uint8_t code[6000];
	struct nagger nagger;
	pthread_t thread;
	struct jr r;

	(void)state;
	jr_init(&r, 1);
	self_modifying(code, 3000);
	code[0] = 0xb9;
	code[2] = 0x02; /* 512 rounds */
	start(&r, 0, code, 3006);
	jr_load(&r, &first);
	assert_true(jr_interpret(&r));
	jr_save(&r, &by_interpreter);
	nagger.cpu = r.cpu;
	atomic_init(&nagger.stop, false);
	assert_int_equal(pthread_create(&thread, NULL, nag, &nagger), 0);
	for (unsigned round = 0; round < 5; round++) {
		jr_load(&r, &first);
		while (!jr_translate(&r))
			;
		jr_save(&r, &by_translator);
		assert_memory_equal(by_interpreter.gpr, by_translator.gpr,
				    sizeof(by_interpreter.gpr));
		assert_memory_equal(by_interpreter.ram, by_translator.ram, JR_RAM);
	}
	atomic_store(&nagger.stop, true);
	pthread_join(thread, NULL);
	jr_fini(&r);
}

/* The code memory's halves take turns while code runs in between. */
static void test_turns(void **state)
{
	static uint8_t code[6000];
	struct jr r;

	(void)state;
	jr_init(&r, 1);
	start(&r, 0, code, self_modifying(code, 4096));
	for (unsigned round = 0; round < 6; round++) {
		uint64_t turns = r.soft->jit->n_flushes;

		both(&r);
		pthread_mutex_lock(&r.soft->jit->lock);
		assert_true(jit_cache_turn(r.soft->jit));
		pthread_mutex_unlock(&r.soft->jit->lock);
		assert_int_equal(r.soft->jit->n_flushes, turns + 1);
	}
	jr_fini(&r);
}

#define N_VCPUS  4
#define N_ROUNDS 5000u

struct runner {
	struct soft_cpu *cpu;
	bool ok;
};

static void *run_vcpu(void *arg)
{
	struct runner *runner = arg;
	struct soft_cpu *cpu = runner->cpu;

	soft_enter(cpu);
	for (unsigned round = 0; round < 1000000 && cpu->mp_state != X86_MP_HALTED; round++) {
		unsigned request = atomic_fetch_and(&cpu->request, 0);

		if ((request & REQ_FLUSH) != 0)
			tlb_flush_all(cpu);
		if (!jit_run(cpu))
			break;
		/* Somebody may wait for this vCPU to be outside. */
		soft_leave(cpu);
		soft_enter(cpu);
	}
	soft_leave(cpu);
	runner->ok = cpu->mp_state == X86_MP_HALTED;
	return NULL;
}

/* Each counts with LOCK, and under a spinlock without it, while another writes to the page of their code. */
static void test_vcpus(void **state)
{
	static const uint8_t code[] = {
		0xf0, 0x48, 0xff, 0x45, 0x00,             /* lock inc qword [rbp] */
		0xb8, 0x01, 0x00, 0x00, 0x00,             /* mov eax, 1 */
		0x87, 0x45, 0x40,                         /* xchg [rbp + 64], eax */
		0x85, 0xc0,                               /* test eax, eax */
		0x75, 0xf4,                               /* jnz to mov */
		0x48, 0xff, 0x45, 0x48,                   /* inc qword [rbp + 72] */
		0xc7, 0x45, 0x40, 0x00, 0x00, 0x00, 0x00, /* mov dword [rbp + 64], 0 */
		0x48, 0xff, 0xc9,                         /* dec rcx */
		0x75, 0xdd,                               /* jnz to the beginning */
		0xf4,                                     /* hlt */
	};
	struct runner runners[N_VCPUS];
	pthread_t threads[N_VCPUS];
	uint64_t counted[2];
	struct jr r;

	(void)state;
	jr_init(&r, N_VCPUS);
	memset(r.ram + JR_DATA, 0, 4096);
	jr_set_code(&r, 0, code, sizeof(code));
	for (unsigned n = 0; n < N_VCPUS; n++) {
		struct soft_cpu *cpu = r.rig.cpu[n];

		cpu->gpr[1] = N_ROUNDS;
		cpu->gpr[4] = JR_DATA + 0x3000 + n * 0x100;
		cpu->gpr[5] = JR_DATA;
		cpu->rip = cpu->next_rip = JR_CODE;
		atomic_store(&cpu->request, 0);
		runners[n] = (struct runner){.cpu = cpu};
		assert_int_equal(pthread_create(&threads[n], NULL, run_vcpu, &runners[n]), 0);
	}
	for (unsigned n = 0; n < 200; n++) {
		r.ram[JR_CODE + 2048] = (uint8_t)n;
		code_written(r.soft, NULL, JR_CODE + 2048, 1);
		sched_yield();
	}
	for (unsigned n = 0; n < N_VCPUS; n++) {
		pthread_join(threads[n], NULL);
		assert_true(runners[n].ok);
	}
	memcpy(&counted[0], r.ram + JR_DATA, 8);
	memcpy(&counted[1], r.ram + JR_DATA + 72, 8);
	assert_int_equal(counted[0], N_VCPUS * N_ROUNDS);
	assert_int_equal(counted[1], N_VCPUS * N_ROUNDS);
	jr_fini(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_self_modifying), cmocka_unit_test(test_next_instruction),
		cmocka_unit_test(test_page_ends),      cmocka_unit_test(test_requests),
		cmocka_unit_test(test_turns),          cmocka_unit_test(test_vcpus),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
