/* UUIDs as text and as sixteen bytes (RFC 4122). */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define UUID_TEXT_BYTES 37

void uuid_format(const uint8_t uuid[16], char ret[UUID_TEXT_BYTES]);
