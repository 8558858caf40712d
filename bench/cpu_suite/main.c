/* Runs the tests that are named (all of them without names) and prints "name value unit" for each. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "suite.h"

#define BATCH_SECONDS 0.05
#define BATCHES       7

volatile uint64_t sink;

void wrong(const char *what)
{
	printf("WRONG %s\n", what);
	exit(1);
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

static int ascending(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double rate(const struct test *t)
{
	double rates[BATCHES], took;
	long n = 1;

	for (;;) {
		double start = now();

		t->run(n);
		took = now() - start;
		if (took >= BATCH_SECONDS)
			break;
		n = took < BATCH_SECONDS / 10 ? n * 8
					      : (long)((double)n * 1.2 * BATCH_SECONDS / took) + 1;
	}
	for (int i = 0; i < BATCHES; i++) {
		double start = now();

		t->run(n);
		rates[i] = (double)n / (now() - start);
	}
	qsort(rates, BATCHES, sizeof(rates[0]), ascending);
	return rates[BATCHES / 2];
}

static void run_all(const struct test *t, int argc, char **argv)
{
	for (; t->name; t++) {
		int wanted = argc < 2;
		double value;

		for (int i = 1; i < argc; i++)
			wanted |= strcmp(argv[i], t->name) == 0;
		if (!wanted)
			continue;
		if (t->once) {
			double start = now();

			t->run(1);
			value = (now() - start) * 1e6;
		} else {
			value = rate(t);
		}
		printf("%s %.6g %s\n", t->name, value, t->unit);
		fflush(stdout);
	}
}

int main(int argc, char **argv)
{
	/* The cold ones first. */
	run_all(tests_system, argc, argv);
	run_all(tests_integer, argc, argv);
	run_all(tests_float, argc, argv);
	run_all(tests_library, argc, argv);
	return 0;
}
