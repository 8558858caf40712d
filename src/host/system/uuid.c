#include "host/system/uuid.h"

#include <stdio.h>

void uuid_format(const uint8_t uuid[16], char ret[UUID_TEXT_BYTES])
{
	char *at = ret;

	for (int i = 0; i < 16; i++)
		at += snprintf(at, 4, "%s%02x", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "",
			       uuid[i]);
}
