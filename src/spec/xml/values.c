/* Values that machines, pools and volumes share: UUIDs, amounts with units. */
#include <errno.h>
#include <string.h>
#include <sys/random.h>

#include "base/bits.h"
#include "base/str.h"
#include "spec/xml/xml_int.h"

static int parse_uuid(const char *text, uint8_t uuid[16])
{
	int digits = 0;

	memset(uuid, 0, 16);
	for (; *text; text++) {
		int v;

		if (*text == '-')
			continue;
		v = *text >= '0' && *text <= '9'   ? *text - '0'
		    : *text >= 'a' && *text <= 'f' ? *text - 'a' + 10
		    : *text >= 'A' && *text <= 'F' ? *text - 'A' + 10
						   : -1;
		if (v < 0 || digits == 32)
			return -EINVAL;
		uuid[digits / 2] = (uint8_t)(uuid[digits / 2] << 4 | v);
		digits++;
	}
	return digits == 32 ? 0 : -EINVAL;
}

/* RFC 4122, 4.4. */
static int random_uuid(uint8_t uuid[16])
{
	if (getrandom(uuid, 16, 0) != 16)
		return -EIO;
	uuid[6] = (uint8_t)((uuid[6] & 0x0f) | 0x40);
	uuid[8] = (uint8_t)((uuid[8] & 0x3f) | 0x80);
	return 0;
}

int xml_take_uuid(const char *text, uint8_t uuid[16], struct error *err)
{
	int r;

	if (text && *text) {
		if (parse_uuid(text, uuid) < 0)
			return error_set(err, -EBADMSG, "element <uuid>: '%.60s' is no UUID", text);
		return 0;
	}
	r = random_uuid(uuid);
	return r < 0 ? error_set_errno(err, r, "no random numbers for a UUID") : 0;
}

void xml_format_uuid(const uint8_t uuid[16], char text[XML_UUID_BYTES])
{
	for (int i = 0; i < 16; i++)
		text += snprintf(text, 4, "%s%02x",
				 i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "", uuid[i]);
}

/* libvirt's units: KiB when there is none. */
static int unit_bytes(const char *unit, uint64_t *ret)
{
	static const struct {
		const char *name;
		uint64_t bytes;
	} units[] = {
		{"b", 1},           {"bytes", 1}, {"k", KIB},       {"KiB", KIB},
		{"KB", 1000},       {"m", MIB},   {"M", MIB},       {"MiB", MIB},
		{"MB", 1000000},    {"g", GIB},   {"G", GIB},       {"GiB", GIB},
		{"GB", 1000000000}, {"K", KIB},   {"T", GIB * KIB}, {"TiB", GIB * KIB},
	};

	if (!unit || !*unit) {
		*ret = KIB;
		return 0;
	}
	for (size_t i = 0; i < ARRAY_SIZE(units); i++) {
		if (str_eq(units[i].name, unit)) {
			*ret = units[i].bytes;
			return 0;
		}
	}
	return -EINVAL;
}

int xml_read_amount(const xmlNode *node, const char *text, const char *unit, uint64_t *ret_bytes,
		    struct error *err)
{
	uint64_t count, bytes;

	if (unit_bytes(unit, &bytes) < 0)
		return error_set(err, -EBADMSG, "element <%s>: '%.20s' is no unit",
				 (const char *)node->name, unit);
	if (parse_u64(text, &count) < 0 || __builtin_mul_overflow(count, bytes, ret_bytes))
		return error_set(err, -EBADMSG, "element <%s>: '%.60s' is no amount of memory",
				 (const char *)node->name, text);
	return 0;
}
