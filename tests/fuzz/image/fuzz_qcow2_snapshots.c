/* The snapshot table: what is taken can be written, and is taken again. */
#include <stdlib.h>

#include "image/qcow2/qcow2_snapshot.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct qcow2_header h = {.version = 3, .cluster_bits = 9, .size = 1 << 20};
	struct qcow2_snapshots a;
	struct qcow2_snapshots b;
	struct error err = ERROR_INIT;
	uint64_t bytes;
	uint8_t *out;

	if (size < 1 ||
	    qcow2_snapshots_parse(data + 1, size - 1, data[0], &h, "image", &a, &err) < 0)
		return 0;
	out = qcow2_snapshots_encode(&a, &bytes);
	if (out) {
		if (qcow2_snapshots_parse(out, bytes, a.n, &h, "image", &b, &err) < 0 ||
		    b.n != a.n || b.bytes != bytes)
			abort();
		qcow2_snapshots_fini(&b);
	}
	free(out);
	qcow2_snapshots_fini(&a);
	return 0;
}
