/*
 * Strings and numbers from outside: bounded copies, strict parsing, sizes with suffixes, the nearest name.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Copies with truncation, always terminated. Returns false when the text did not fit. */
bool str_copy(char *dst, size_t dst_size, const char *src);

static inline bool str_eq(const char *a, const char *b)
{
	return __builtin_strcmp(a, b) == 0;
}
bool str_starts(const char *s, const char *prefix);

/* Whole-string parse of a decimal, or with 0x a hexadecimal, number: -EINVAL or -ERANGE, ret written on success only. */
int parse_u64(const char *s, uint64_t *ret);
int parse_u32_range(const char *s, uint32_t min, uint32_t max, uint32_t *ret);

/* A size in bytes: digits with an optional suffix B, K, M, G, T (1024-based, also KiB, MiB ...).
 * A bare number is multiplied by `unit` (1 for bytes, MIB where the field's custom is MiB). */
int parse_size(const char *s, uint64_t unit, uint64_t *ret);

/* "on", "off", "yes", "no", "true", "false", "1", "0". */
int parse_bool(const char *s, bool *ret);

/* The closest of n names by edit distance, or NULL when none is close enough to be meant. */
const char *str_nearest(const char *word, const char *const *names, size_t n);

/* "512 MiB", "1.5 GiB"; buf of 32 bytes suffices. */
void format_size(uint64_t bytes, char *buf, size_t buf_size);
