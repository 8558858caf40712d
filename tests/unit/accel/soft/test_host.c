/*
 * Integer instructions against the processor that runs the test: random encodings, registers and memory; the interpreter must leave the
 * same registers, memory and defined flags, or raise the same exception. HOST_TESTS=N in the environment: how many.
 */
#include "rig.h"

#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>

#include "base/str.h"
#include "vm/accel/soft/codemem.h"

#define SCRATCH       0x70000000ULL /* here and in the guest */
#define SCRATCH_BYTES 4096u
#define CODE          0x10000ULL
#define TABLES        0x1000ULL
#define GUEST_SCRATCH 0x200000ULL /* physical */
#define FLAGS_KEPT    (RF_STATUS | RF_DF)

struct image {
	uint64_t gpr[16], flags;
	uint8_t memory[SCRATCH_BYTES];
};

struct host {
	struct codemem code;
	size_t used;
	uint8_t *scratch;
	struct image *in, *out;
	uint64_t saved_rsp;
	uint8_t stack[65536];
};

static sigjmp_buf host_fault;

static void on_signal(int number)
{
	siglongjmp(host_fault, number);
}

/* --- the host --- */

static void host_init(struct host *h)
{
	static const int signals[] = {SIGFPE, SIGILL, SIGSEGV, SIGBUS, SIGTRAP};
	struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_ONSTACK | SA_NODEFER};
	stack_t stack = {.ss_sp = h->stack, .ss_size = sizeof(h->stack)};
	struct error err = ERROR_INIT;

	if (codemem_open(&h->code, "host-test", 1 << 20, &err) < 0)
		fail_msg("%s", err.text);
	h->scratch = mmap((void *)SCRATCH, SCRATCH_BYTES, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	assert_ptr_equal(h->scratch, (void *)SCRATCH);
	assert_int_equal(sigaltstack(&stack, NULL), 0);
	for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
		sigaction(signals[i], &action, NULL);
}

static void host_fini(struct host *h)
{
	static const int signals[] = {SIGFPE, SIGILL, SIGSEGV, SIGBUS, SIGTRAP};
	stack_t stack = {.ss_flags = SS_DISABLE};

	for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
		signal(signals[i], SIG_DFL);
	sigaltstack(&stack, NULL);
	munmap(h->scratch, SCRATCH_BYTES);
	codemem_close(&h->code);
}

struct writer {
	uint8_t *at;
};

static void put(struct writer *w, const void *bytes, size_t n)
{
	memcpy(w->at, bytes, n);
	w->at += n;
}
#define PUT(w, text) put(w, text, sizeof(text) - 1)

static void put64(struct writer *w, const void *pointer)
{
	put(w, &pointer, 8);
}

/* mov between register and [rax + 8 * register] */
static void put_slot(struct writer *w, bool load, unsigned reg)
{
	const uint8_t bytes[] = {reg >= 8 ? 0x4c : 0x48, load ? 0x8b : 0x89,
				 (uint8_t)(0x40 | (reg & 7) << 3), (uint8_t)(8 * reg)};

	put(w, bytes, sizeof(bytes));
}

static void (*host_code(struct host *h, const uint8_t *insn, unsigned n))(void)
{
	struct writer w;
	uint8_t *start;

	if (h->used + 512 > h->code.size)
		h->used = 0;
	start = h->code.rw + h->used;
	w.at = start;
	PUT(&w, "\xf3\x0f\x1e\xfa\x53\x55\x41\x54\x41\x55\x41\x56\x41\x57"); /* endbr, pushes */
	PUT(&w, "\x48\x89\xe0\x48\xa3"); /* mov rax, rsp; mov [saved_rsp], rax */
	put64(&w, &h->saved_rsp);
	PUT(&w, "\x48\xb8"); /* mov rax, in */
	put64(&w, h->in);
	PUT(&w, "\xff\xb0\x80\x00\x00\x00\x9d"); /* push [rax + 128]; popf */
	for (unsigned i = 1; i < 16; i++)
		put_slot(&w, true, i);
	put_slot(&w, true, 0);
	put(&w, insn, n);
	PUT(&w, "\x48\xa3"); /* mov [out.rax], rax */
	put64(&w, &h->out->gpr[0]);
	PUT(&w, "\x48\xb8"); /* mov rax, out */
	put64(&w, h->out);
	for (unsigned i = 1; i < 16; i++)
		put_slot(&w, false, i);
	PUT(&w, "\x48\xbb"); /* mov rbx, &saved_rsp; mov rsp, [rbx] */
	put64(&w, &h->saved_rsp);
	PUT(&w, "\x48\x8b\x23\x9c\x8f\x80\x80\x00\x00\x00\xfc"); /* pushf; pop [rax + 128]; cld */
	PUT(&w, "\x41\x5f\x41\x5e\x41\x5d\x41\x5c\x5d\x5b\xc3");
	h->used += (size_t)(w.at - start + 63) & ~63UL;
	return (void (*)(void))(uintptr_t)(h->code.rx + (start - h->code.rw));
}

/* The vector of the exception, or -1. */
static int run_host(struct host *h, const uint8_t *insn, unsigned n)
{
	void (*code)(void) = host_code(h, insn, n);
	int number;

	memcpy(h->scratch, h->in->memory, SCRATCH_BYTES);
	number = sigsetjmp(host_fault, 1);
	if (number == 0) {
		code();
		memcpy(h->out->memory, h->scratch, SCRATCH_BYTES);
		return -1;
	}
	__asm__ volatile("cld");
	return number == SIGFPE ? VEC_DE : number == SIGILL ? VEC_UD : VEC_GP;
}

/* --- the guest --- */

static void guest_init(struct rig *r)
{
	struct soft_cpu *cpu = r->cpu[0];
	struct x86_boot_regs regs = {.mode = X86_BOOT_LONG64,
				     .rip = CODE,
				     .cr3 = TABLES,
				     .cs_selector = 8,
				     .ds_selector = 16,
				     .tss_selector = 24};
	uint64_t entry[4] = {(TABLES + 0x1000) | 7, (TABLES + 0x2000) | 7, 0x87,
			     GUEST_SCRATCH | 0x87};
	struct error err = ERROR_INIT;

	gmem_write(r->mem, TABLES, &entry[0], 8);
	gmem_write(r->mem, TABLES + 0x1000, &entry[1], 8);
	entry[1] = (TABLES + 0x3000) | 7;
	gmem_write(r->mem, TABLES + 0x1000 + 8 * (SCRATCH >> 30), &entry[1], 8);
	gmem_write(r->mem, TABLES + 0x2000, &entry[2], 8);
	gmem_write(r->mem, TABLES + 0x3000 + 8 * (SCRATCH >> 21 & 511), &entry[3], 8);
	assert_int_equal(accel_vcpu_set_boot(&cpu->base, &regs, &err), 0);
}

static int run_guest(struct rig *r, const struct image *in, struct image *out, const uint8_t *insn)
{
	struct soft_cpu *cpu = r->cpu[0];
	uint8_t *ram = gmem_ptr(r->mem, GUEST_SCRATCH, SCRATCH_BYTES);

	memcpy(gmem_ptr(r->mem, CODE, INSN_MAX_BYTES), insn, INSN_MAX_BYTES);
	memcpy(ram, in->memory, SCRATCH_BYTES);
	memcpy(cpu->gpr, in->gpr, sizeof(cpu->gpr));
	cpu_set_rflags(cpu, in->flags);
	cpu->rip = CODE;
	atomic_store(&cpu->request, 0);
	if (setjmp(cpu->unwind) != 0)
		return cpu->fault.vector;
	interp_step(cpu);
	memcpy(out->gpr, cpu->gpr, sizeof(out->gpr));
	memcpy(out->memory, ram, SCRATCH_BYTES);
	out->flags = cpu_get_rflags(cpu);
	return -1;
}

/* --- what is tried --- */

static uint64_t next_random(uint64_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 7;
	*seed ^= *seed << 17;
	return *seed * 0x2545f4914f6cdd1dULL;
}

/* ModRM: a register, or [rdi], [r15] with a short displacement or none. */
static uint8_t make_modrm(uint8_t byte)
{
	return byte >= 0x80 ? byte | 0xc0 : (byte & 0x78) | 7;
}

static unsigned make_encoding(uint64_t *seed, uint8_t bytes[INSN_MAX_BYTES])
{
	uint64_t choice = next_random(seed);
	unsigned at = 0;

	for (unsigned i = 0; i < INSN_MAX_BYTES; i++)
		bytes[i] = (uint8_t)(next_random(seed) >> 40);
	if ((choice & 7) == 0)
		bytes[at++] = 0x66;
	if ((choice >> 3 & 7) == 0)
		bytes[at++] = choice & 0x40 ? 0xf3 : 0xf2;
	if ((choice >> 7 & 15) == 0)
		bytes[at++] = 0xf0;
	if ((choice >> 11 & 15) == 0)
		bytes[at++] = 0x67;
	if (choice & 0x8000)
		bytes[at++] = 0x40 | (choice >> 16 & 15);
	switch (choice >> 20 & 7) {
	case 0:
	case 1:
	case 2:
		bytes[at++] = 0x0f;
		break;
	case 3:
		bytes[at++] = 0x0f;
		bytes[at++] = 0x38;
		bytes[at++] = 0xf0 | (choice >> 24 & 7);
		goto modrm;
	case 4:
		at = 0;
		bytes[at++] = 0xc4;
		bytes[at] = (bytes[at] & 0xe0) | (choice & 0x80000000 ? 3 : 2);
		at += 2;
		bytes[at++] = 0xf0 | (choice >> 24 & 7);
		goto modrm;
	default:
		break;
	}
	at++;
modrm:
	bytes[at] = make_modrm(bytes[at]);
	return at;
}

static bool is_left_out(const struct insn *insn)
{
	switch (insn->op) {
	case OP_POPF:
	case OP_CLI:
	case OP_STI:
	case OP_HLT:
	case OP_PUSHF:    /* shows IF, which differs */
	case OP_PUSH_SEG: /* selectors differ */
	case OP_RDRAND:
	case OP_RDSEED:
	case OP_CLFLUSH:
	case OP_CLFLUSHOPT:
	case OP_CLWB:
	case OP_XLAT:
		return true;
	default:
		return insn->form->attrs & (FORM_BRANCH | FORM_IO) || insn->seg >= SEG_FS;
	}
}

static bool uses_stack(const struct insn *insn)
{
	switch (insn->op) {
	case OP_PUSH:
	case OP_POP:
	case OP_ENTER:
	case OP_LEAVE:
		return true;
	default:
		return false;
	}
}

/* BT and its kin with memory and a bit number in a register. */
static bool is_far_bit(const struct insn *insn)
{
	switch (insn->op) {
	case OP_BT:
	case OP_BTS:
	case OP_BTR:
	case OP_BTC:
		return insn->operand[0].kind == OPND_MEM && insn->operand[1].kind == OPND_GPR;
	default:
		return false;
	}
}

/* Is it one of those that are tried, and safe to run? */
static bool is_wanted(struct soft_cpu *cpu, const uint8_t *bytes, struct insn *ret)
{
	if (insn_decode(bytes, INSN_MAX_BYTES, INSN_MODE_64, true, cpu->features, ret) != INSN_OK)
		return false;
	if (!exec_bind_int(ret) || is_left_out(ret))
		return false;
	if (ret->base != INSN_REG_NONE && ret->base != 7 && ret->base != 15)
		return false;
	if (ret->disp < -256 || ret->disp > 256)
		return false;
	if (is_far_bit(ret) && (ret->operand[1].reg == 7 || ret->operand[1].reg == 15))
		return false;
	if (ret->op != OP_LEA && (ret->base == INSN_REG_NONE || ret->index != INSN_REG_NONE))
		for (unsigned i = 0; i < ret->n_operands; i++)
			if (ret->operand[i].kind == OPND_MEM)
				return false;
	return ret->op != OP_ENTER || (ret->imm < 256 && (ret->imm2 & 31) < 8);
}

static uint64_t make_value(uint64_t *seed)
{
	static const uint64_t edges[] = {0,          1,          ~0ULL,      0x7f,       0x80,
					 0xff,       0x7fff,     0x8000,     0xffff,     0x7fffffff,
					 0x80000000, 0xffffffff, 1ULL << 63, ~0ULL >> 1, 31};
	uint64_t value = next_random(seed);

	switch (value >> 60) {
	case 0:
	case 1:
	case 2:
	case 3:
		return edges[(value & 0xffff) % (sizeof(edges) / sizeof(edges[0]))];
	case 4:
	case 5:
		return value & 0x3f;
	case 6:
		return 1ULL << (value & 63);
	case 7:
		return (uint64_t)(int64_t)(int8_t)value;
	default:
		return next_random(seed) >> (value & 63);
	}
}

static void make_image(uint64_t *seed, const struct insn *insn, struct image *in)
{
	for (unsigned i = 0; i < 16; i++)
		in->gpr[i] = make_value(seed);
	for (unsigned i = 0; i < SCRATCH_BYTES; i += 512) {
		uint64_t value = make_value(seed);

		memcpy(in->memory + SCRATCH_BYTES / 2 + i / 16, &value, 8);
	}
	in->gpr[7] = SCRATCH + 2048 + (next_random(seed) & 63);
	in->gpr[15] = SCRATCH + 2048 + (next_random(seed) & 63);
	if (insn->form->attrs & FORM_REP) {
		in->gpr[6] = SCRATCH + 2048 + (next_random(seed) & 127);
		in->gpr[1] &= 31;
	}
	if (uses_stack(insn)) {
		in->gpr[4] = SCRATCH + 2048 + (next_random(seed) & 63);
		in->gpr[5] = SCRATCH + 1024 + (next_random(seed) & 63);
	}
	/* A bit number in a register may reach anywhere. */
	if (is_far_bit(insn))
		in->gpr[insn->operand[1].reg] =
			(uint64_t)(int64_t)(int16_t)(next_random(seed) % 8000 - 4000);
	in->flags = (next_random(seed) & RF_STATUS) | RF_ONE | RF_IF;
	if (insn->form->flags_read & INSN_DF)
		in->flags |= next_random(seed) & RF_DF;
}

static uint64_t rflags_mask(unsigned flags)
{
	static const uint64_t bits[] = {RF_CF, RF_PF, RF_AF, RF_ZF, RF_SF, RF_OF, RF_DF};
	uint64_t mask = 0;

	for (unsigned i = 0; i < 7; i++)
		mask |= flags >> i & 1 ? bits[i] : 0;
	return mask;
}

static void show(const char *what, const struct image *image)
{
	print_error("%-6s", what);
	for (unsigned i = 0; i < 16; i++)
		print_error(" %llx", (unsigned long long)image->gpr[i]);
	print_error(" flags %llx\n", (unsigned long long)(image->flags & FLAGS_KEPT));
}

/* Returns whether both did the same. */
static bool compare(const struct insn *insn, const struct host *h, int host, int guest,
		    const struct image *out)
{
	uint64_t flags = FLAGS_KEPT & ~rflags_mask(insn->form->flags_undefined);

	if (host != guest)
		return false;
	if (host >= 0)
		return true;
	return memcmp(h->out->gpr, out->gpr, sizeof(out->gpr)) == 0 &&
	       ((h->out->flags ^ out->flags) & flags) == 0 &&
	       memcmp(h->out->memory, out->memory, SCRATCH_BYTES) == 0;
}

struct state {
	struct rig rig;
	struct host host;
	struct image in, host_out, guest_out;
	unsigned *coverage;
	unsigned n, n_bad;
};

static void try_one(struct state *s, uint64_t *seed)
{
	uint8_t bytes[INSN_MAX_BYTES];
	struct insn insn;
	int host, guest;

	make_encoding(seed, bytes);
	if (!is_wanted(s->rig.cpu[0], bytes, &insn))
		return;
	make_image(seed, &insn, &s->in);
	host = run_host(&s->host, bytes, insn.length);
	guest = run_guest(&s->rig, &s->in, &s->guest_out, bytes);
	s->n++;
	s->coverage[insn.form->id]++;
	if (compare(&insn, &s->host, host, guest, &s->guest_out))
		return;
	if (s->n_bad++ >= 20)
		return;
	print_error("%s (%s):", insn.form->name, insn.form->where);
	for (unsigned i = 0; i < insn.length; i++)
		print_error(" %02x", bytes[i]);
	print_error(": vectors %d %d, memory %d\n", host, guest,
		    memcmp(s->host.out->memory, s->guest_out.memory, SCRATCH_BYTES));
	show("before", &s->in);
	show("host", s->host.out);
	show("here", &s->guest_out);
}

static void instructions_do_what_the_host_does(void **state)
{
	struct state *s = calloc(1, sizeof(*s));
	const char *wanted = getenv("HOST_TESTS");
	uint64_t seed = 0x9e3779b97f4a7c15;
	uint32_t n = 400000;
	unsigned n_forms = 0;

	assert_non_null(s);
	if (wanted)
		assert_int_equal(parse_u32_range(wanted, 1, UINT32_MAX, &n), 0);
	s->coverage = calloc(insn_n_forms, sizeof(*s->coverage));
	assert_non_null(s->coverage);
	rig_init(&s->rig, 1);
	guest_init(&s->rig);
	s->host.in = &s->in;
	s->host.out = &s->host_out;
	host_init(&s->host);
	for (uint32_t i = 0; i < n; i++)
		try_one(s, &seed);
	for (size_t i = 0; i < insn_n_forms; i++)
		n_forms += s->coverage[i] != 0;
	print_message("%u instructions of %u forms, %u differ\n", s->n, n_forms, s->n_bad);
	host_fini(&s->host);
	rig_fini(&s->rig);
	assert_int_equal(s->n_bad, 0);
	free(s->coverage);
	free(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(instructions_do_what_the_host_does),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
