#include "vm/char/escape.h"

#include <stdio.h>

size_t escape_filter(struct escape *esc, uint8_t *data, size_t len)
{
	size_t kept = 0;

	if (esc->key == 0)
		return len;
	for (size_t i = 0; i < len; i++) {
		uint8_t byte = data[i];

		if (!esc->armed && byte == esc->key) {
			esc->armed = true;
			continue;
		}
		if (esc->armed && byte != esc->key) {
			esc->armed = false;
			if (esc->command)
				esc->command(esc->opaque, (char)byte);
			continue;
		}
		esc->armed = false;
		data[kept++] = byte;
	}
	return kept;
}

void escape_key_name(uint8_t key, char *buf, size_t size)
{
	if (key < 0x20)
		snprintf(buf, size, "Ctrl-%c", '@' + key);
	else if (key < 0x7f)
		snprintf(buf, size, "%c", key);
	else
		snprintf(buf, size, "byte 0x%02x", key);
}
