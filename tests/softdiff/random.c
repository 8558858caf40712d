/* Random numbers, with a liking for those that instructions treat specially. */
#include <string.h>

#include "softdiff/diff.h"

/* splitmix64. */
uint64_t rng_next(struct rng *r)
{
	uint64_t z = r->s += 0x9e3779b97f4a7c15ULL;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ULL;
	z = (z ^ z >> 27) * 0x94d049bb133111ebULL;
	return z ^ z >> 31;
}

unsigned rng_below(struct rng *r, unsigned n)
{
	return (unsigned)((rng_next(r) >> 32) * n >> 32);
}

bool rng_chance(struct rng *r, unsigned percent)
{
	return rng_below(r, 100) < percent;
}

uint64_t rng_value(struct rng *r)
{
	static const uint64_t special[] = {
		0,          1,         2,          0x7f,       0x80,       0xff,
		0x7fff,     0x8000,    0xffff,     0x7fffffff, 0x80000000, 0xffffffff,
		1ULL << 32, INT64_MAX, 1ULL << 63, UINT64_MAX,
	};
	uint64_t v = rng_next(r);

	switch (rng_below(r, 8)) {
	case 0:
	case 1:
		return special[rng_below(r, sizeof(special) / sizeof(special[0]))];
	case 2:
		return v & 0xff;
	case 3:
		return (uint64_t)(int64_t)(int8_t)v;
	case 4:
		return 1ULL << (v & 63);
	case 5:
		return (1ULL << (v & 63)) - 1;
	default:
		return v;
	}
}

static uint32_t rng_float(struct rng *r)
{
	static const uint32_t special[] = {
		0,          0x80000000, 0x3f800000, 0xbf800000, 0x7f800000, 0xff800000,
		0x7fc00000, 0xffc00000, 0x7f800001, 0x7fbfffff, 0x00000001, 0x007fffff,
		0x00800000, 0x7f7fffff, 0x4f000000, 0xcf000000, 0x3f000000, 0x34000000,
	};
	uint32_t v = (uint32_t)rng_next(r);

	if (rng_chance(r, 40))
		return special[rng_below(r, sizeof(special) / sizeof(special[0]))];
	/* Near 1, so that sums and products stay finite. */
	return rng_chance(r, 50) ? (v & 0x87ffffff) + 0x3c000000 : v;
}

static uint64_t rng_double(struct rng *r)
{
	static const uint64_t special[] = {
		0,
		0x8000000000000000,
		0x3ff0000000000000,
		0xbff0000000000000,
		0x7ff0000000000000,
		0xfff0000000000000,
		0x7ff8000000000000,
		0xfff8000000000000,
		0x7ff0000000000001,
		0x0000000000000001,
		0x000fffffffffffff,
		0x0010000000000000,
		0x7fefffffffffffff,
		0x43e0000000000000,
		0xc3e0000000000000,
		0x41dfffffffc00000,
		0x47efffffe0000000,
		0x3690000000000000,
	};
	uint64_t v = rng_next(r);

	if (rng_chance(r, 40))
		return special[rng_below(r, sizeof(special) / sizeof(special[0]))];
	return rng_chance(r, 50) ? (v & 0x80ffffffffffffff) + 0x3f80000000000000 : v;
}

void rng_fill(struct rng *r, uint8_t *to, size_t n)
{
	unsigned kind = rng_below(r, 5);

	for (size_t i = 0; i < n; i += 8) {
		uint64_t v;

		switch (kind) {
		case 0:
			v = rng_float(r) | (uint64_t)rng_float(r) << 32;
			break;
		case 1:
			v = rng_double(r);
			break;
		case 2:
			v = rng_value(r);
			break;
		case 3: /* text, for string comparisons */
			v = (rng_next(r) & 0x0303030303030303) + 0x6060606060606060;
			if (rng_chance(r, 30))
				v &= ~(0xffULL << (8 * rng_below(r, 8)));
			break;
		default:
			v = rng_next(r);
		}
		memcpy(to + i, &v, 8);
	}
}

/* An x87 register. */
static void rng_extended(struct rng *r, uint8_t *to)
{
	uint64_t mantissa = rng_next(r) | 1ULL << 63;
	uint16_t exponent = (uint16_t)(0x3fff + rng_below(r, 80) - 40);

	switch (rng_below(r, 12)) {
	case 0: /* zero */
		mantissa = 0;
		exponent = 0;
		break;
	case 1: /* infinity */
		mantissa = 1ULL << 63;
		exponent = 0x7fff;
		break;
	case 2: /* NaN, quiet or signalling */
		exponent = 0x7fff;
		break;
	case 3: /* denormal */
		mantissa &= ~(1ULL << 63);
		exponent = 0;
		break;
	case 4: /* unsupported: no integer bit */
		mantissa &= ~(1ULL << 63);
		break;
	case 5: /* an integer */
		mantissa &= ~0ULL << (63 - rng_below(r, 20));
		exponent = (uint16_t)(0x3fff + rng_below(r, 20));
		break;
	case 6:
		mantissa = 1ULL << 63;
		exponent = 0x3fff;
		break;
	case 7:
		exponent = (uint16_t)(rng_next(r) & 0x7fff);
		break;
	default:
		break;
	}
	exponent |= (uint16_t)(rng_next(r) & 0x8000);
	memcpy(to, &mantissa, 8);
	memcpy(to + 8, &exponent, 2);
	memset(to + 10, 0, 6);
}

static void rng_x87(struct rng *r, uint8_t *fpu)
{
	uint16_t fcw = 0x37f, fsw = 0;

	if (rng_chance(r, 50))
		fcw = (uint16_t)(0x40 | (rng_next(r) & 0x0f00) |
				 (rng_chance(r, 60) ? 0x3f : rng_next(r) & 0x3f));
	if (rng_chance(r, 70))
		fsw = (uint16_t)(rng_next(r) & 0x4700) | (uint16_t)(rng_below(r, 8) << 11);
	/* Exceptions; a pending one is rare. */
	if (rng_chance(r, 30))
		fsw |= (uint16_t)(rng_next(r) & 0x7f & (rng_chance(r, 90) ? fcw | 0x40 : 0x7f));
	if (fsw & ~fcw & 0x3f)
		fsw |= 0x8080;
	memcpy(fpu, &fcw, 2);
	memcpy(fpu + 2, &fsw, 2);
	fpu[4] = rng_chance(r, 50) ? (uint8_t)rng_next(r) : rng_chance(r, 50) ? 0xff : 0;
	for (unsigned i = 0; i < 8; i++)
		rng_extended(r, fpu + 32 + 16 * (size_t)i);
}

void rng_state(struct rng *r, struct diff_state *state)
{
	uint32_t mxcsr = 0x1f80, mask = 0xffff;

	for (unsigned i = 0; i < 16; i++)
		state->gpr[i] = rng_value(r);
	/* The stack in the middle of the window, and strings near it. */
	state->gpr[4] = WINDOW + 0x800 + 8 * (uint64_t)rng_below(r, 256);
	if (rng_chance(r, 50))
		state->gpr[6] = WINDOW + rng_below(r, WINDOW_SIZE - 64);
	if (rng_chance(r, 50))
		state->gpr[7] = WINDOW + rng_below(r, WINDOW_SIZE - 64);
	state->rflags = FLAGS_ALWAYS | (rng_next(r) & FLAGS_STATUS);
	state->gs_base = 0;
	memset(state->fpu, 0, sizeof(state->fpu));
	rng_x87(r, state->fpu);
	if (rng_chance(r, 30))
		mxcsr = (uint32_t)(rng_next(r) & 0xffff) | (rng_chance(r, 60) ? 0x1f80 : 0);
	else if (rng_chance(r, 50))
		mxcsr |= (uint32_t)(rng_next(r) & 0x3f);
	memcpy(state->fpu + 24, &mxcsr, 4);
	memcpy(state->fpu + 28, &mask, 4);
	for (unsigned i = 0; i < 16; i++) {
		rng_fill(r, state->fpu + 160 + 16 * (size_t)i, 16);
		rng_fill(r, state->fpu + 576 + 16 * (size_t)i, 16);
	}
	state->fpu[512] = 7;
}
