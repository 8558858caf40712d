/*
 * ELF with PVH notes, or with a multiboot header: the input fills up to four program headers and the file after them; the
 * ELF header is put right. A byte says which parts are moved to where they can be valid.
 */
#include <elf.h>

#include "firmware/fuzz_boot.h"

#define N_HEADERS 4
#define HEADERS   (sizeof(Elf64_Ehdr) + N_HEADERS * sizeof(Elf64_Phdr))

static void tame(Elf64_Phdr *ph, unsigned hint)
{
	ph->p_type = hint & 4 ? PT_NOTE : PT_LOAD;
	ph->p_offset &= 0xFFF;
	ph->p_filesz &= 0xFFF;
	if (hint & 8) {
		ph->p_paddr = FW_LOADER_END + (ph->p_paddr & 0x7FFFFF);
		ph->p_memsz = ph->p_filesz + (ph->p_memsz & 0xFFFFF);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static union {
		uint8_t bytes[1 << 14];
		struct {
			Elf64_Ehdr ehdr;
			Elf64_Phdr ph[N_HEADERS];
		} h;
	} image;
	unsigned hint = size > 0 ? data[0] : 0;
	size_t n = size > 1 ? MIN(size - 1, sizeof(image) - sizeof(Elf64_Ehdr)) : 0;

	memset(&image, 0, sizeof(image));
	if (n > 0)
		memcpy(image.bytes + sizeof(Elf64_Ehdr), data + 1, n);
	image.h.ehdr = (Elf64_Ehdr){
		.e_ident = {0x7F, 'E', 'L', 'F', (hint & 1) + 1, ELFDATA2LSB, EV_CURRENT},
		.e_type = ET_EXEC,
		.e_machine = EM_X86_64,
		.e_entry = image.h.ph[0].p_paddr,
		.e_phoff = sizeof(Elf64_Ehdr),
		.e_phentsize = sizeof(Elf64_Phdr),
		.e_phnum = N_HEADERS,
	};
	if (hint & 2)
		for (unsigned i = 0; i < N_HEADERS; i++)
			tame(&image.h.ph[i], hint + (i == 1 ? 4 : 0));
	fuzz_load(image.bytes, MAX(HEADERS, sizeof(Elf64_Ehdr) + n), image.bytes,
		  hint & 16 ? size : 0);
	return 0;
}
