/* Port forwards as a user writes them: what is accepted is made of harmless characters only, for it becomes an argument. */
#include <stdlib.h>
#include <string.h>

#include "vm/net/passt_int.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct passt_forward fwd;
	struct error err = ERROR_INIT;
	char text[200];

	if (size >= sizeof(text))
		return 0;
	memcpy(text, data, size);
	text[size] = '\0';
	if (passt_forward_parse(text, &fwd, &err) < 0)
		return err.text[0] ? 0 : (abort(), 0);
	if (fwd.spec[strspn(fwd.spec, "0123456789abcdefABCDEF.:/")] != '\0' ||
	    !strchr(fwd.spec, ':'))
		abort();
	return 0;
}
