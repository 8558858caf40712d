/* Scalar integer work of our own: a hash, calls, indirect jumps, sorting, strings, memory. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "suite.h"

#define ROR(x, n) ((x) >> (n) | (x) << (32 - (n)))

static const uint32_t initial[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
				    0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};

/* The fractional parts of cube roots of the first 64 primes (FIPS 180-4, section 4.2.2), computed rather than listed. */
static void constants(uint32_t k[64])
{
	int n = 0;

	for (unsigned p = 2; n < 64; p++) {
		int prime = 1;
		__uint128_t low, high;

		for (unsigned d = 2; d * d <= p; d++)
			prime &= p % d != 0;
		if (!prime)
			continue;
		/* The cube root of p * 2^96, to one unit: its low 32 bits. */
		low = 0;
		high = (__uint128_t)8 << 32;
		while (high - low > 1) {
			__uint128_t middle = (low + high) / 2;
			/* middle < 2^35: its cube fits. */
			if (middle * middle * middle <= (__uint128_t)p << 96)
				low = middle;
			else
				high = middle;
		}
		k[n++] = (uint32_t)low;
	}
}

static void compress(uint32_t state[8], const uint8_t *block, const uint32_t k[64])
{
	uint32_t w[64], s[8];

	for (int i = 0; i < 16; i++)
		w[i] = (uint32_t)block[4 * i] << 24 | (uint32_t)block[4 * i + 1] << 16 |
		       (uint32_t)block[4 * i + 2] << 8 | block[4 * i + 3];
	for (int i = 16; i < 64; i++) {
		uint32_t a = ROR(w[i - 15], 7) ^ ROR(w[i - 15], 18) ^ w[i - 15] >> 3;
		uint32_t b = ROR(w[i - 2], 17) ^ ROR(w[i - 2], 19) ^ w[i - 2] >> 10;

		w[i] = w[i - 16] + a + w[i - 7] + b;
	}
	memcpy(s, state, sizeof(s));
	for (int i = 0; i < 64; i++) {
		uint32_t e = ROR(s[4], 6) ^ ROR(s[4], 11) ^ ROR(s[4], 25);
		uint32_t t1 = s[7] + e + ((s[4] & s[5]) ^ (~s[4] & s[6])) + k[i] + w[i];
		uint32_t a = ROR(s[0], 2) ^ ROR(s[0], 13) ^ ROR(s[0], 22);
		uint32_t t2 = a + ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));

		memmove(s + 1, s, 7 * sizeof(s[0]));
		s[4] += t1;
		s[0] = t1 + t2;
	}
	for (int i = 0; i < 8; i++)
		state[i] += s[i];
}

static void run_sha256(long n) /* n blocks of 64 bytes */
{
	uint32_t k[64], state[8];
	uint8_t block[64] = {'a', 'b', 'c', 0x80};

	constants(k);
	block[63] = 24;
	memcpy(state, initial, sizeof(state));
	compress(state, block, k);
	if (state[0] != 0xba7816bf || state[7] != 0xf20015ad)
		wrong("sha256");
	for (long i = 0; i < n; i++)
		compress(state, block, k);
	sink += state[0];
}

static __attribute__((noinline)) long fib(long n)
{
	return n < 2 ? n : fib(n - 1) + fib(n - 2);
}

static void run_fib(long n)
{
	for (long i = 0; i < n; i++)
		if (fib(20) != 6765)
			wrong("fib");
}

/* A bytecode interpreter with one indirect jump an operation. */
enum { OP_PUSH, OP_ADD, OP_XOR, OP_DUP, OP_SWAP, OP_LOOP, OP_END };

static void run_interp(long n) /* n times 7 operations */
{
	static const uint8_t code[] = {OP_DUP,  OP_PUSH, 3,      OP_ADD,  OP_XOR,
				       OP_SWAP, OP_DUP,  OP_XOR, OP_LOOP, OP_END};
	static const void *const targets[] = {&&push, &&add,  &&exclusive, &&dup,
					      &&swap, &&loop, &&end};
	uint64_t stack[16] = {1, 2}, t;
	unsigned sp = 2, pc = 0;
	long left = n;

	goto *targets[code[pc]];
push:
	stack[sp++ & 15] = code[pc + 1];
	pc += 2;
	goto *targets[code[pc]];
add:
	sp--;
	stack[(sp - 1) & 15] += stack[sp & 15];
	goto *targets[code[++pc]];
exclusive:
	sp--;
	stack[(sp - 1) & 15] ^= stack[sp & 15];
	goto *targets[code[++pc]];
dup:
	stack[sp & 15] = stack[(sp - 1) & 15];
	sp++;
	goto *targets[code[++pc]];
swap:
	t = stack[(sp - 1) & 15];
	stack[(sp - 1) & 15] = stack[(sp - 2) & 15];
	stack[(sp - 2) & 15] = t;
	goto *targets[code[++pc]];
loop:
	if (--left > 0) {
		pc = 0;
		goto *targets[code[pc]];
	}
	goto *targets[code[++pc]];
end:
	sink += stack[1];
}

static int order(const void *a, const void *b)
{
	int x = *(const int *)a, y = *(const int *)b;

	return (x > y) - (x < y);
}

static void run_qsort(long n)
{
	static int numbers[4096];

	for (long round = 0; round < n; round++) {
		uint32_t seed = 1 + (uint32_t)round;

		for (int i = 0; i < 4096; i++)
			numbers[i] = (int)((seed = seed * 1103515245u + 12345u) >> 4);
		qsort(numbers, 4096, sizeof(numbers[0]), order);
		for (int i = 1; i < 4096; i++)
			if (numbers[i - 1] > numbers[i])
				wrong("qsort");
	}
}

static void run_strings(long n)
{
	char text[256];

	for (long i = 0; i < n; i++) {
		int len = snprintf(text, sizeof(text),
				   "%ld: the quick brown %s jumps over %x lazy dogs", i, "fox",
				   (unsigned)i);

		if ((size_t)len != strlen(text) || !strstr(text, "lazy"))
			wrong("strings");
		sink += (uint64_t)(strchr(text, 'q') - text);
	}
}

static void run_memcpy(long n)
{
	static char from[1 << 20], to[1 << 20];

	for (long i = 0; i < n; i++) {
		from[i & 0xFFFFF]++;
		memcpy(to, from, sizeof(to));
		__asm__ volatile("" : : "r"(to) : "memory");
	}
	sink += (uint64_t)to[77];
}

static void chase(long n, size_t bytes)
{
	static void **memory;
	static size_t made;
	size_t lines = bytes / 64;
	void **at;

	if (made != bytes) { /* one cycle through all lines, in a random order (Sattolo) */
		uint32_t *next = malloc(lines * sizeof(*next));
		uint64_t seed = 1;

		free(memory);
		memory = aligned_alloc(4096, bytes);
		made = bytes;
		for (size_t i = 0; i < lines; i++)
			next[i] = (uint32_t)i;
		for (size_t i = lines - 1; i > 0; i--) {
			size_t j = (seed = seed * 6364136223846793005u + 1442695040888963407u) % i;
			uint32_t t = next[i];

			next[i] = next[j];
			next[j] = t;
		}
		for (size_t i = 0; i < lines; i++)
			memory[i * 8] = &memory[(size_t)next[i] * 8];
		free(next);
	}
	at = memory;
	for (long i = 0; i < n * 1024; i++)
		at = *at;
	sink += (uint64_t)(uintptr_t)at;
}

static void run_chase_l1(long n)
{
	chase(n, 32 << 10);
}

static void run_chase_memory(long n)
{
	chase(n, 64 << 20);
}

static void run_atomic(long n)
{
	static uint64_t counter;

	for (long i = 0; i < n; i++)
		__atomic_fetch_add(&counter, 1, __ATOMIC_SEQ_CST);
	sink += counter;
}

const struct test tests_integer[] = {
	{"sha256", "blocks/s", run_sha256, 0},
	{"qsort", "arrays/s", run_qsort, 0},
	{"fib", "fib20/s", run_fib, 0},
	{"interp", "loops/s", run_interp, 0},
	{"strings", "lines/s", run_strings, 0},
	{"memcpy", "MiB/s", run_memcpy, 0},
	{"chase-32K", "Kiloads/s", run_chase_l1, 0},
	{"chase-64M", "Kiloads/s", run_chase_memory, 0},
	{"atomic", "adds/s", run_atomic, 0},
	{0},
};
