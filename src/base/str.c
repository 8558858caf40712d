#include "base/str.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"

bool str_copy(char *dst, size_t dst_size, const char *src)
{
	size_t len = strlen(src);
	bool fits = len < dst_size;

	if (dst_size == 0)
		return false;
	if (!fits)
		len = dst_size - 1;
	memcpy(dst, src, len);
	dst[len] = '\0';
	return fits;
}

bool str_starts(const char *s, const char *prefix)
{
	return strncmp(s, prefix, strlen(prefix)) == 0;
}

/* Digits from s; *ret_end is the first character that is none. */
static int parse_digits(const char *s, uint64_t *ret, const char **ret_end)
{
	char *end;
	int base = 10;

	if (!isdigit((unsigned char)s[0]))
		return -EINVAL;
	if (s[0] == '0' && (s[1] == 'x' || s[1] == 'X')) {
		base = 16;
		if (!isxdigit((unsigned char)s[2]))
			return -EINVAL;
	}
	errno = 0;
	*ret = strtoull(s, &end, base);
	*ret_end = end;
	return errno == ERANGE ? -ERANGE : 0;
}

int parse_u64(const char *s, uint64_t *ret)
{
	const char *end;
	uint64_t v;
	int r = parse_digits(s, &v, &end);

	if (r < 0)
		return r;
	if (*end != '\0')
		return -EINVAL;
	*ret = v;
	return 0;
}

int parse_u32_range(const char *s, uint32_t min, uint32_t max, uint32_t *ret)
{
	uint64_t v;
	int r = parse_u64(s, &v);

	if (r < 0)
		return r;
	if (v < min || v > max)
		return -ERANGE;
	*ret = (uint32_t)v;
	return 0;
}

int parse_size(const char *s, uint64_t unit, uint64_t *ret)
{
	static const char suffixes[] = "bkmgt";
	const char *end;
	const char *at;
	uint64_t v;
	int r = parse_digits(s, &v, &end);

	if (r < 0)
		return r;
	if (*end != '\0') {
		at = strchr(suffixes, tolower((unsigned char)*end));
		if (!at || *at == '\0')
			return -EINVAL;
		unit = 1ULL << (10 * (unsigned)(at - suffixes));
		end++;
		if (unit > 1 && strcmp(end, "iB") == 0)
			end += 2;
		if (*end != '\0')
			return -EINVAL;
	}
	if (__builtin_mul_overflow(v, unit, &v))
		return -ERANGE;
	*ret = v;
	return 0;
}

int parse_bool(const char *s, bool *ret)
{
	static const char *const yes[] = {"on", "yes", "true", "1"};
	static const char *const no[] = {"off", "no", "false", "0"};

	for (size_t i = 0; i < ARRAY_SIZE(yes); i++) {
		if (str_eq(s, yes[i])) {
			*ret = true;
			return 0;
		}
		if (str_eq(s, no[i])) {
			*ret = false;
			return 0;
		}
	}
	return -EINVAL;
}

#define NEAREST_MAX 63

/* Levenshtein distance of two words of at most NEAREST_MAX characters. */
static size_t edit_distance(const char *a, const char *b)
{
	size_t row[NEAREST_MAX + 1];
	size_t la = strlen(a);
	size_t lb = strlen(b);

	for (size_t j = 0; j <= lb; j++)
		row[j] = j;
	for (size_t i = 1; i <= la; i++) {
		size_t diagonal = row[0];

		row[0] = i;
		for (size_t j = 1; j <= lb; j++) {
			size_t above = row[j];
			size_t best = diagonal + (a[i - 1] != b[j - 1]);

			best = MIN(best, above + 1);
			best = MIN(best, row[j - 1] + 1);
			row[j] = best;
			diagonal = above;
		}
	}
	return row[lb];
}

const char *str_nearest(const char *word, const char *const *names, size_t n)
{
	const char *best = NULL;
	size_t best_distance = SIZE_MAX;
	size_t len = strlen(word);

	if (len > NEAREST_MAX)
		return NULL;
	for (size_t i = 0; i < n; i++) {
		size_t d;

		if (strlen(names[i]) > NEAREST_MAX)
			continue;
		d = edit_distance(word, names[i]);
		if (d < best_distance) {
			best_distance = d;
			best = names[i];
		}
	}
	/* A third of the letters may differ, two at least: beyond that it is another word. */
	return best && best_distance <= MAX(len / 3, (size_t)2) ? best : NULL;
}

void format_size(uint64_t bytes, char *buf, size_t buf_size)
{
	static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
	size_t u = 0;
	uint64_t scaled = bytes;

	while (scaled >= 1024 && u + 1 < ARRAY_SIZE(units)) {
		scaled /= 1024;
		u++;
	}
	if (u == 0 || (scaled << (10 * u)) == bytes)
		snprintf(buf, buf_size, "%" PRIu64 " %s", scaled, units[u]);
	else
		snprintf(buf, buf_size, "%.1f %s", (double)bytes / (double)(1ULL << (10 * u)),
			 units[u]);
}
