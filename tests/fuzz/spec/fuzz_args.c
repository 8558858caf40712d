/*
 * The command line, words apart by line ends. What is taken and is a machine must survive JSON unchanged.
 */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "spec/spec.h"

#define MAX_WORDS 64

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_round_trip(const struct spec *spec)
{
	struct error err = ERROR_INIT;
	struct spec again;
	char *text = spec_to_json(spec);
	char *second;

	/* Text that is no UTF-8 has no JSON. */
	if (!text)
		return;
	spec_init(&again);
	assert(spec_from_json(&again, text, strlen(text), "again", &err) == 0);
	second = spec_to_json(&again);
	assert(second && str_eq(text, second));
	spec_fini(&again);
	free(second);
	free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct spec_cli_result result = {0};
	struct error err = ERROR_INIT;
	char *argv[MAX_WORDS];
	char *text = malloc(size + 1);
	struct spec spec;
	int argc = 0;

	memcpy(text, data, size);
	text[size] = '\0';
	for (char *rest = text, *word; argc < MAX_WORDS && (word = strsep(&rest, "\n"));)
		/* Not the file system's business here. */
		if (!str_starts(word, "--config"))
			argv[argc++] = word;
	spec_init(&spec);
	if (spec_parse_args(&spec, argc, argv, &result, &err) == 0) {
		check_round_trip(&spec);
		if (spec_finish(&spec, &err) == 0) {
			check_round_trip(&spec);
			assert(spec_finish(&spec, &err) == 0);
		}
	}
	spec_fini(&spec);
	free(text);
	return 0;
}
