/* Multiboot without ELF: the input is the file; a header is put into it, with its checksum made right. */
#include "base/endian.h"
#include "firmware/fuzz_boot.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t image[1 << 14];
	size_t n = MIN(size, sizeof(image));
	uint32_t flags;
	size_t at;

	if (n < 16)
		return 0;
	memcpy(image, data, n);
	at = (data[0] | (size_t)data[1] << 8) % (n - 12) & ~(size_t)3;
	flags = (uint32_t)le_load(data + 2, 4) & 0x1000F;
	le_store(image + at, 4, 0x1BADB002);
	le_store(image + at + 4, 4, flags);
	le_store(image + at + 8, 4, -(0x1BADB002 + flags));
	for (size_t field = at + 12; field < at + 32 && field + 4 <= n; field += 4)
		if (data[6] & 1) /* addresses that can be in memory */
			le_store(image + field, 4, le_load(image + field, 4) & 0x7FFFFF);
	fuzz_load(image, n, image, data[6] & 2 ? n : 0);
	return 0;
}
