/* bzImage: the input is the file from the setup header on, after a byte that says which fields are made plausible. */
#include <asm/bootparam.h>

#include "firmware/fuzz_boot.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t image[1 << 14];
	struct setup_header *h = (void *)(image + 0x1F1);
	unsigned hint = size > 0 ? data[0] : 0;
	size_t n = size > 1 ? MIN(size - 1, sizeof(image) - 0x1F1) : 0;

	memset(image, 0, sizeof(image));
	if (n > 0)
		memcpy(image + 0x1F1, data + 1, n);
	h->boot_flag = 0xAA55;
	h->header = 0x53726448;
	if (hint & 1) { /* inside the file */
		h->setup_sects &= 3;
		h->syssize &= 0x1FF;
	}
	if (hint & 2) { /* inside memory */
		h->pref_address = FW_HIGH_BASE + (h->pref_address & 0x3FFFFF);
		h->init_size &= 0x3FFFFF;
	}
	if (hint & 4)
		h->version = 0x0200 | (h->version & 0xF);
	if (hint & 8)
		h->jump |= 0x7F00; /* all of the header counts */
	fuzz_load(image, hint & 16 ? sizeof(image) : MAX(0x300u, n), image, hint & 32 ? n : 0);
	return 0;
}
