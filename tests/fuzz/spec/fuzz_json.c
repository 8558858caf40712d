/*
 * The JSON of a machine. What is taken must be written back as text that gives the same machine.
 */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "spec/spec.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct error err = ERROR_INIT;
	struct spec spec, again;
	char *text, *second;

	spec_init(&spec);
	if (spec_from_json(&spec, (const char *)data, size, "fuzz", &err) == 0) {
		text = spec_to_json(&spec);
		assert(text);
		spec_init(&again);
		assert(spec_from_json(&again, text, strlen(text), "again", &err) == 0);
		second = spec_to_json(&again);
		assert(second && str_eq(text, second));
		spec_fini(&again);
		free(second);
		free(text);
		if (spec_finish(&spec, &err) == 0)
			assert(spec_finish(&spec, &err) == 0);
		else
			assert(err.code < 0 && err.text[0] != '\0');
	}
	spec_fini(&spec);
	return 0;
}
