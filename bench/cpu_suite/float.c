/* Floating point: scalar double, x87, SSE, AVX2 with FMA. */
#include <math.h>
#include <string.h>

#include "suite.h"

struct body {
	double x[3], v[3], mass;
};

/* Five bodies under gravity; energy is kept to some digits, which is checked. */
static double energy(const struct body *b)
{
	double e = 0;

	for (int i = 0; i < 5; i++) {
		e += b[i].mass *
		     (b[i].v[0] * b[i].v[0] + b[i].v[1] * b[i].v[1] + b[i].v[2] * b[i].v[2]) / 2;
		for (int j = i + 1; j < 5; j++) {
			double d2 = 0;

			for (int k = 0; k < 3; k++)
				d2 += (b[i].x[k] - b[j].x[k]) * (b[i].x[k] - b[j].x[k]);
			e -= b[i].mass * b[j].mass / sqrt(d2);
		}
	}
	return e;
}

static void step(struct body *b, double dt)
{
	for (int i = 0; i < 5; i++)
		for (int j = i + 1; j < 5; j++) {
			double d[3], d2 = 0, f;

			for (int k = 0; k < 3; k++) {
				d[k] = b[i].x[k] - b[j].x[k];
				d2 += d[k] * d[k];
			}
			f = dt / (d2 * sqrt(d2));
			for (int k = 0; k < 3; k++) {
				b[i].v[k] -= d[k] * b[j].mass * f;
				b[j].v[k] += d[k] * b[i].mass * f;
			}
		}
	for (int i = 0; i < 5; i++)
		for (int k = 0; k < 3; k++)
			b[i].x[k] += dt * b[i].v[k];
}

static void run_nbody(long n)
{
	struct body b[5];
	double before;

	for (int i = 0; i < 5; i++)
		b[i] = (struct body){.x = {i * 4.0, i % 2 ? 1.5 : -1.5, i * 0.3},
				     .v = {0.01 * i, 0.3 - 0.1 * i, 0},
				     .mass = i ? 0.04 : 40};
	before = energy(b);
	for (long i = 0; i < n && i < 1000; i++)
		step(b, 1e-4);
	if (fabs(energy(b) - before) > 1e-3 * fabs(before))
		wrong("nbody");
	for (long i = 1000; i < n; i++)
		step(b, 1e-4);
	sink += (uint64_t)fabs(b[0].x[0] * 1e6);
}

static void run_x87(long n)
{
	long double x = 1.5L, y = 0.1L;

	for (long i = 0; i < n; i++) {
		__asm__ volatile("" : "+t"(x));
		x = x * 0.999999L + y;
		y = y - x * 1e-9L;
	}
	sink += (uint64_t)x;
}

#define N 64

#define MATRIX_PRODUCT(name, attribute)                                                            \
	attribute static void name(float *restrict c, const float *restrict a,                     \
				   const float *restrict b)                                        \
	{                                                                                          \
		for (int i = 0; i < N; i++) {                                                      \
			float row[N] = {0};                                                        \
			for (int k = 0; k < N; k++)                                                \
				for (int j = 0; j < N; j++)                                        \
					row[j] += a[i * N + k] * b[k * N + j];                     \
			memcpy(c + i * N, row, sizeof(row));                                       \
		}                                                                                  \
	}
MATRIX_PRODUCT(product_sse, __attribute__((noinline, target("sse2"), optimize("O3"))))
MATRIX_PRODUCT(product_avx2, __attribute__((noinline, target("avx2,fma"), optimize("O3"))))

static void matrix(long n, void (*product)(float *, const float *, const float *), const char *name)
{
	static float a[N * N], b[N * N], c[N * N];

	for (int i = 0; i < N * N; i++) {
		a[i] = (float)(i % 7);
		b[i] = (float)(i % 5);
	}
	for (long i = 0; i < n; i++)
		product(c, a, b);
	float want = 0;
	for (int k = 0; k < N; k++)
		want += a[N + k] * b[k * N + 3];
	if (c[N + 3] != want)
		wrong(name);
}

static void run_matrix_sse(long n)
{
	matrix(n, product_sse, "matrix-sse");
}

static void run_matrix_avx2(long n)
{
	if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
		matrix(n, product_avx2, "matrix-avx2");
	else
		matrix(n, product_sse, "matrix-avx2");
}

const struct test tests_float[] = {
	{"nbody", "steps/s", run_nbody, 0},
	{"x87", "steps/s", run_x87, 0},
	{"matrix-sse", "products/s", run_matrix_sse, 0},
	{"matrix-avx2", "products/s", run_matrix_avx2, 0},
	{0},
};
