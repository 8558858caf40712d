/* A machine's memory for firmware tests. */
#pragma once

#include "unit/test.h"

#include "base/bits.h"
#include "vm/mem/gmem.h"

static inline struct gmem *guest_memory(uint64_t bytes)
{
	struct gmem_config config = {.ram_bytes = bytes};
	struct error err = ERROR_INIT;
	struct gmem *mem = NULL;

	if (gmem_new(&config, &mem, &err) < 0)
		fail_msg("%s", err.text);
	return mem;
}

static inline uint64_t guest_load(const struct gmem *mem, gpa_t gpa, unsigned size)
{
	uint64_t v = 0;

	assert_int_equal(gmem_read(mem, gpa, &v, size), 0);
	return v;
}
