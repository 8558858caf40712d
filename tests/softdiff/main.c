/*
 * softdiff [--seconds N] [--cases N] [--seed N] [--form WORD] [--mode 32|64] [--insns N] [--engine step|interpret|translate] [--keep N] [--table]: runs random cases natively and on
 * the software CPU until time or number are up, and says what differs. Exit status 1 when something does. --check is what the build's tests run: some
 * cases that are always the same, and as many that never were before.
 *
 * The work is done by a child process, since a wild store natively may hit anything; when it dies, its last case is shown and counts as a difference.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "softdiff/diff.h"

#define MAX_FORMS   4096
#define KEPT_STATES 200
#define CHECK_CASES 40000 /* a second */
#define CHECK_SECOND_SEED                                                                          \
	1000000000000 /* the same in each run: new ones are for long runs by hand */

struct options {
	uint64_t cases, seed;
	double seconds;
	const char *form;
	unsigned keep; /* differences to show for each form */
	bool table, mode_32, check;
	unsigned max_insns;
	enum engine engine;
};

static const char *const engine_names[N_ENGINES] = {"step", "interpret", "translate"};

/* Shared between the worker and who started it. */
struct progress {
	uint64_t cases, seed; /* of the case being run */
	uint64_t differences;
	uint64_t by_form[MAX_FORMS], faulted[MAX_FORMS], wrong[MAX_FORMS];
	struct diff_case now;
	bool running;
};

static double seconds_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* The forms that are tested, as numbers. */
static unsigned choose_forms(const struct options *o, cpu_features_t features, unsigned *forms)
{
	unsigned n = 0;

	for (unsigned i = 1; i < insn_n_forms && i < MAX_FORMS; i++) {
		const struct insn_form *f = &insn_forms[i];

		if (gen_excluded(f) || !(features >> f->feature & 1))
			continue;
		if (f->attrs & (o->mode_32 ? FORM_ONLY64 : FORM_NO64))
			continue;
		if (o->form && strcmp(o->form, f->name) != 0 && strcmp(o->form, f->where) != 0)
			continue;
		forms[n++] = i;
	}
	return n;
}

/* Whether insn may stand behind others: what these leave undefined may not matter to it, nor what processors keep of the last x87 instruction's address. */
static bool may_follow(const struct insn *insn, unsigned undefined)
{
	switch (insn->op) {
	case OP_FNSTENV:
	case OP_FNSAVE:
	case OP_FXSAVE:
	case OP_XSAVE:
	case OP_XSAVEOPT:
	case OP_XSAVEC:
	case OP_XRSTOR:
	case OP_POPF: /* finds its operand fit where the stack was at first */
		return false;
	default:
		return !(insn->form->flags_read & undefined);
	}
}

static void begin_case(struct rng *r, const struct options *o, struct diff_case *c)
{
	c->mode = o->mode_32 ? INSN_MODE_32 : INSN_MODE_64;
	c->n = 0;
	c->offset[0] = 0;
	rng_state(r, &c->before);
	c->before.rip = CODE + PAGE * rng_below(r, CODE_SIZE / PAGE) + 256 + 64 * rng_below(r, 48);
	if (o->mode_32)
		for (unsigned i = 0; i < 16; i++)
			c->before.gpr[i] = (uint32_t)c->before.gpr[i];
}

static bool make_case(struct rng *r, const struct options *o, const unsigned *forms,
		      unsigned n_forms, struct diff_case *c)
{
	unsigned wanted =
		o->max_insns > 1 && rng_chance(r, 30) ? 1 + rng_below(r, o->max_insns) : 1;

	unsigned undefined = 0;

	begin_case(r, o, c);
	while (c->n < wanted) {
		unsigned at = c->offset[c->n], form = forms[rng_below(r, n_forms)];
		struct insn *insn = &c->insn[c->n];

		if (!gen_insn(r, form, c->mode, guest_features(), c->before.rip + at, &c->before,
			      c->code + at, insn))
			break;
		if (c->n && !may_follow(insn, undefined))
			break;
		undefined &= ~(unsigned)insn->form->flags_written | insn->form->flags_read;
		undefined |= insn->form->flags_undefined;
		c->offset[++c->n] = at + insn->length;
		/* XSAVE and its kin need rax as it is, POPF what is on the stack. */
		if (insn->form->attrs & FORM_BRANCH || insn->form->feature == FEATURE_XSAVE ||
		    insn->op == OP_XSAVEC || insn->op == OP_XSAVEOPT || insn->op == OP_FXSAVE ||
		    insn->op == OP_POPF)
			break;
	}
	if (o->mode_32)
		c->before.gpr[4] = (uint32_t)c->before.gpr[4];
	return c->n;
}

/* Makes the guest's window like the native one again. */
static void resynchronise(void)
{
	guest_poke(WINDOW, native_window(), WINDOW_SIZE);
}

static void fill_window(struct rng *r)
{
	uint8_t bytes[WINDOW_SIZE];

	rng_fill(r, bytes, sizeof(bytes));
	native_poke(WINDOW, bytes, sizeof(bytes));
	resynchronise();
}

/* AMD's MXCSR has a bit 17, which the software CPU does not show. (APM volume 1, section 4.2.2.) */
static void agree_on_mxcsr_mask(const struct diff_case *c)
{
	const uint32_t shown = 0x0000ffff, hidden = 0x0002ffff;

	for (unsigned i = 0; i < c->n; i++) {
		uint16_t op = c->insn[i].op;

		if (op != OP_FXSAVE && op != OP_XSAVE && op != OP_XSAVEOPT && op != OP_XSAVEC)
			continue;
		for (unsigned at = 0; at < WINDOW_SIZE; at += 4)
			if (memcmp(native_window() + at, &hidden, 4) == 0 &&
			    memcmp(guest_window() + at, &shown, 4) == 0)
				native_poke(WINDOW + at, &shown, 4);
		return;
	}
}

static void run_case(const struct options *o, struct progress *p)
{
	struct diff_case *c = &p->now;
	struct diff_outcome native, guest;
	const unsigned form = c->insn[0].form->id;

	p->running = true;
	if (NATIVE)
		native_run(c, &native);
	guest_run(c, o->engine, &guest);
	p->running = false;
	if (!NATIVE) {
		p->by_form[form]++;
		resynchronise();
		return;
	}
	agree_on_mxcsr_mask(c);
	p->by_form[form]++;
	if (native.vector >= 0 && native.vector != 3)
		p->faulted[form]++;
	if (compare(c, &native, &guest, o->engine, NULL)) {
		if (memcmp(native_window(), guest_window(), WINDOW_SIZE) != 0)
			resynchronise();
		return;
	}
	p->differences++;
	if (p->wrong[form]++ < o->keep) {
		printf("seed %llu: ", (unsigned long long)p->seed);
		print_case(stdout, c);
		compare(c, &native, &guest, o->engine, stdout);
		fflush(stdout);
	}
	resynchronise();
}

static void run_kept(const struct options *o, struct progress *p)
{
	struct rng r = {o->seed};

	for (unsigned i = 0; i < KEPT_STATES * kept_count() && !o->form; i++) {
		if (i % 64 == 0)
			fill_window(&r);
		begin_case(&r, o, &p->now);
		if (kept_case(&r, i / KEPT_STATES, p->now.mode, guest_features(), &p->now))
			run_case(o, p);
	}
}

static int work(const struct options *o, struct progress *p)
{
	static unsigned forms[MAX_FORMS];
	double end = seconds_now() + o->seconds;
	unsigned n_forms;

	if (gen_init() < 0 || guest_init(o->engine) < 0 || native_init() < 0) {
		fprintf(stderr, "softdiff: cannot set up: %s\n", strerror(errno));
		return 2;
	}
	n_forms = choose_forms(o, guest_features(), forms);
	if (!n_forms) {
		fprintf(stderr, "softdiff: no form to test\n");
		return 2;
	}
	run_kept(o, p);
	for (; p->cases < o->cases; p->cases++) {
		struct rng r;

		/* Each case is what its seed says, whatever ran before it. */
		r.s = p->seed = o->seed + p->cases;
		r.s = rng_next(&r);
		if (p->seed % 64 == 0 || p->cases == 0) {
			if (seconds_now() > end)
				break;
			fill_window(&r);
		}
		if (make_case(&r, o, forms, n_forms, &p->now))
			run_case(o, p);
	}
	return 0;
}

/* Runs the worker until it is done, again after each death. */
static int supervise(const struct options *o, struct progress *p)
{
	for (;;) {
		int status;
		pid_t child;

		fflush(stdout);
		child = fork();
		if (child < 0)
			return -errno;
		if (child == 0) {
			int r = work(o, p);

			fflush(stdout);
			_exit(r);
		}
		if (waitpid(child, &status, 0) < 0)
			return -errno;
		if (WIFEXITED(status))
			return WEXITSTATUS(status) == 0 ? 0 : -EINVAL;
		if (p->differences++ < 10)
			printf("seed %llu ended the process (status %x): ",
			       (unsigned long long)p->seed, (unsigned)status);
		if (p->differences <= 10)
			print_case(stdout, &p->now);
		p->cases++;
		if (p->differences > 1000)
			return 0;
	}
}

static void print_table(const struct progress *p)
{
	for (unsigned i = 1; i < insn_n_forms && i < MAX_FORMS; i++) {
		const struct insn_form *f = &insn_forms[i];
		const char *why = gen_excluded(f);

		printf("%-18s %-28s ", f->name, f->where);
		if (why)
			printf("not run: %s\n", why);
		else
			printf("%8llu cases %8llu faults %6llu differ\n",
			       (unsigned long long)p->by_form[i], (unsigned long long)p->faulted[i],
			       (unsigned long long)p->wrong[i]);
	}
}

static void print_summary(const struct options *o, const struct progress *p, double seconds)
{
	unsigned tested = 0, there = 0;

	for (unsigned i = 1; i < insn_n_forms && i < MAX_FORMS; i++) {
		there++;
		tested += p->by_form[i] != 0;
	}
	printf("softdiff: %s%s, seed %llu: %llu cases, %.0f a second, %u of %u forms; %llu differ\n",
	       NATIVE ? "" : "without the native side, ", engine_names[o->engine],
	       (unsigned long long)o->seed, (unsigned long long)p->cases,
	       (double)p->cases / seconds, tested, there, (unsigned long long)p->differences);
}

static bool parse_engine(const char *name, enum engine *ret)
{
	for (unsigned i = 0; i < N_ENGINES; i++)
		if (!strcmp(name, engine_names[i])) {
			*ret = (enum engine)i;
			return true;
		}
	return false;
}

static bool parse_options(int argc, char **argv, struct options *o)
{
	for (int i = 1; i < argc; i++) {
		const char *value = i + 1 < argc ? argv[i + 1] : NULL;

		if (!strcmp(argv[i], "--table") || !strcmp(argv[i], "--check")) {
			*(argv[i][2] == 't' ? &o->table : &o->check) = true;
			continue;
		}
		if (!value)
			return false;
		i++;
		if (!strcmp(argv[i - 1], "--cases"))
			o->cases = strtoull(value, NULL, 0);
		else if (!strcmp(argv[i - 1], "--seconds"))
			o->seconds = strtod(value, NULL);
		else if (!strcmp(argv[i - 1], "--seed"))
			o->seed = strtoull(value, NULL, 0);
		else if (!strcmp(argv[i - 1], "--form"))
			o->form = value;
		else if (!strcmp(argv[i - 1], "--mode"))
			o->mode_32 = !strcmp(value, "32");
		else if (!strcmp(argv[i - 1], "--engine")) {
			if (!parse_engine(value, &o->engine))
				return false;
		} else if (!strcmp(argv[i - 1], "--keep"))
			o->keep = (unsigned)strtoull(value, NULL, 0);
		else if (!strcmp(argv[i - 1], "--insns"))
			o->max_insns = (unsigned)strtoull(value, NULL, 0);
		else
			return false;
	}
	return o->max_insns >= 1 && o->max_insns <= MAX_INSNS;
}

/* True: something differs, or it could not run. */
static bool run(const struct options *o)
{
	double start = seconds_now();
	struct progress *p =
		mmap(NULL, sizeof(*p), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	bool failed;

	if (p == MAP_FAILED || supervise(o, p) < 0)
		return true;
	if (o->table)
		print_table(p);
	print_summary(o, p, seconds_now() - start);
	failed = p->differences != 0;
	munmap(p, sizeof(*p));
	return failed;
}

int main(int argc, char **argv)
{
	struct options o = {
		.cases = UINT64_MAX, .seconds = 1e9, .seed = 1, .keep = 1, .max_insns = 1};
	bool failed;

	if (!parse_options(argc, argv, &o)) {
		fprintf(stderr,
			"usage: softdiff [--cases N] [--seconds N] [--seed N] [--form NAME] [--mode 32|64] "
			"[--insns 1..8] [--engine step|interpret|translate] [--keep N] [--table] [--check]\n");
		return 2;
	}
	if (!o.check)
		return run(&o) ? 1 : 0;
	o.cases = CHECK_CASES;
	o.max_insns = MAX_INSNS;
	failed = run(&o);
	o.seed = CHECK_SECOND_SEED;
	return run(&o) || failed ? 1 : 0;
}
