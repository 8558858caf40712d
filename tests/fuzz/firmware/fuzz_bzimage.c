/* bzImage: the input is the file from the setup header on; only what makes it a bzImage is put right. */
#include <asm/bootparam.h>

#include "firmware/fuzz_boot.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t image[1 << 16];
	struct setup_header *h = (void *)(image + 0x1F1);
	size_t n = MIN(size, sizeof(image) - 0x1F1);

	memset(image, 0, sizeof(image));
	if (n > 0)
		memcpy(image + 0x1F1, data, n);
	h->boot_flag = 0xAA55;
	h->header = 0x53726448;
	h->loadflags |= (image[0x1F0 + (n > 1)] & 7) ? LOADED_HIGH : 0;
	/* most kernels prefer a place that exists */
	if (h->min_alignment & 1) {
		h->pref_address = FW_HIGH_BASE + (h->pref_address & 0x7FFFFF);
		h->init_size &= 0x7FFFFF;
	}
	fuzz_load(image, MAX(0x300u, n), image, h->setup_data & 0xFFF);
	return 0;
}
