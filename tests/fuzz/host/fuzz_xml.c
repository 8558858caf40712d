/* Domain XML. What is taken must come out as text that is taken again, unchanged, and must have a form for a running machine. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "spec/xml/xml.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct spec_xml_live live = {1, "/dev/pts/1", NULL};
	struct spec_xml *xml = NULL, *again = NULL;
	struct error err = ERROR_INIT;
	char *text = NULL;

	if (spec_xml_parse((const char *)data, size, "/vireo-vmm", &xml, &err) < 0) {
		assert(err.code < 0 && err.text[0]);
		return 0;
	}
	assert(spec_xml_parse(xml->text, strlen(xml->text), "/vireo-vmm", &again, &err) == 0);
	assert(str_eq(xml->text, again->text));
	assert(spec_xml_live_text(xml, &live, &text, &err) == 0);
	free(text);
	spec_xml_free(again);
	spec_xml_free(xml);
	return 0;
}
