/*
 * Integers as they stand on a wire, on a disk or in a ring. Each is a struct with one member, so that
 * a forgotten conversion does not compile. All are naturally sized and carry no alignment of their own.
 */
#pragma once

#include <endian.h>
#include <stdint.h>
#include <string.h>

typedef struct {
	uint16_t raw;
} __attribute__((packed)) le16;
typedef struct {
	uint32_t raw;
} __attribute__((packed)) le32;
typedef struct {
	uint64_t raw;
} __attribute__((packed)) le64;
typedef struct {
	uint16_t raw;
} __attribute__((packed)) be16;
typedef struct {
	uint32_t raw;
} __attribute__((packed)) be32;
typedef struct {
	uint64_t raw;
} __attribute__((packed)) be64;

static inline uint16_t le16_get(le16 v)
{
	return le16toh(v.raw);
}
static inline uint32_t le32_get(le32 v)
{
	return le32toh(v.raw);
}
static inline uint64_t le64_get(le64 v)
{
	return le64toh(v.raw);
}
static inline uint16_t be16_get(be16 v)
{
	return be16toh(v.raw);
}
static inline uint32_t be32_get(be32 v)
{
	return be32toh(v.raw);
}
static inline uint64_t be64_get(be64 v)
{
	return be64toh(v.raw);
}

static inline le16 le16_of(uint16_t v)
{
	return (le16){htole16(v)};
}
static inline le32 le32_of(uint32_t v)
{
	return (le32){htole32(v)};
}
static inline le64 le64_of(uint64_t v)
{
	return (le64){htole64(v)};
}
static inline be16 be16_of(uint16_t v)
{
	return (be16){htobe16(v)};
}
static inline be32 be32_of(uint32_t v)
{
	return (be32){htobe32(v)};
}
static inline be64 be64_of(uint64_t v)
{
	return (be64){htobe64(v)};
}

/* Little-endian loads and stores on byte buffers without alignment; size is 1, 2, 4 or 8. */
static inline uint64_t le_load(const void *p, unsigned size)
{
	uint64_t v = 0;

	memcpy(&v, p, size);
	return le64toh(v);
}
static inline void le_store(void *p, unsigned size, uint64_t v)
{
	v = htole64(v);
	memcpy(p, &v, size);
}
