/*
 * The CPU benchmark's parts. A test does a batch of `n` operations; main.c chooses n so that a batch takes a while, repeats it, and prints
 * the median of operations a second. Sums of what was computed go to `sink`, which is checked where the answer is known.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct test {
	const char *name;
	const char *unit; /* of one operation */
	void (*run)(long n);
	unsigned once; /* 1: not a rate: the time of run(1), called once, in microseconds */
};

extern volatile uint64_t sink;

extern const struct test tests_integer[], tests_float[], tests_library[], tests_system[];

/* Ends the program with a message: the machine computed something wrong. */
_Noreturn void wrong(const char *what);
