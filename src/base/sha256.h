/* SHA-256 (FIPS 180-4) of a buffer. For chains of records, not for secrets. Any thread. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define SHA256_BYTES      32
#define SHA256_TEXT_BYTES 65

void sha256(const void *data, size_t len, uint8_t ret[SHA256_BYTES]);
/* Lower-case hexadecimal. */
void sha256_text(const uint8_t hash[SHA256_BYTES], char ret[SHA256_TEXT_BYTES]);
