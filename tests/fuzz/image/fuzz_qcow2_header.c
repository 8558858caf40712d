/* The header and its extensions: what is taken must be written again as something that is taken, and says the same. */
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "image/qcow2/qcow2_int.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool same_text(const char *a, const char *b)
{
	return (a == NULL) == (b == NULL) && (!a || strcmp(a, b) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t in[65536];
	static uint8_t out[65536];
	struct qcow2_header a;
	struct qcow2_header b;
	struct error err = ERROR_INIT;
	size_t len = MIN(size, sizeof(in));
	size_t cluster;

	memset(in, 0, sizeof(in));
	memcpy(in, data, len);
	/* Most inputs get past the magic and the version. */
	if (len > 8 && in[0] & 1) {
		qcow2_put32(in, QCOW2_MAGIC);
		qcow2_put32(in + 4, 2 + (in[7] & 1));
	}
	if (qcow2_header_parse(in, len, 64 * MIB, "image", &a, &err) < 0)
		return 0;
	cluster = MIN((size_t)1 << a.cluster_bits, sizeof(out));
	if (qcow2_header_encode(&a, out, cluster, "image", &err) >= 0) {
		if (qcow2_header_parse(out, cluster, 64 * MIB, "image", &b, &err) < 0)
			abort();
		if (a.size != b.size || a.l1_offset != b.l1_offset || a.incompat != b.incompat ||
		    !same_text(a.backing_name, b.backing_name) ||
		    !same_text(a.backing_format, b.backing_format) ||
		    !same_text(a.data_file, b.data_file))
			abort();
		qcow2_header_fini(&b);
	}
	qcow2_header_fini(&a);
	return 0;
}
