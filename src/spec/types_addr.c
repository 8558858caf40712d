/*
 * What an option's value can be, continued: MAC addresses and UUIDs.
 */
#include "spec/spec_int.h"

#include <errno.h>
#include <string.h>

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

/* Text shaped like `pattern`, where each "xx" is a byte and any other character is itself. */
static bool parse_hex_shape(const char *text, const char *pattern, uint8_t *ret)
{
	while (*pattern) {
		int high, low;

		if (*pattern != 'x') {
			if (*text++ != *pattern++)
				return false;
			continue;
		}
		high = hex_digit(text[0]);
		if (high < 0)
			return false;
		low = hex_digit(text[1]);
		if (low < 0)
			return false;
		*ret++ = (uint8_t)(high << 4 | low);
		text += 2;
		pattern += 2;
	}
	return *text == '\0';
}

static json_t *json_hex_shape(const char *pattern, const uint8_t *bytes)
{
	char text[40];
	char *at = text;

	while (*pattern) {
		if (*pattern == 'x') {
			snprintf(at, 3, "%02x", *bytes++);
			at += 2;
			pattern += 2;
		} else {
			*at++ = *pattern++;
		}
	}
	*at = '\0';
	return json_string(text);
}

/* --- MAC --- */

#define MAC_SHAPE  "xx:xx:xx:xx:xx:xx"
#define MAC_BYTES  6
#define UUID_SHAPE "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx"
#define UUID_BYTES 16

static int mac_parse(const struct spec_field *f, void *base, const char *text, struct error *err)
{
	uint8_t mac[MAC_BYTES];
	bool *given = spec_member(base, f->aux);

	if (!parse_hex_shape(text, MAC_SHAPE, mac))
		return error_set(err, -EINVAL,
				 "'%s' is no MAC address: write it as 52:54:00:12:34:56", text);
	memcpy(spec_member(base, f->offset), mac, sizeof(mac));
	*given = true;
	return 0;
}

static int mac_check(const struct spec_field *f, const void *base, struct error *err)
{
	static const uint8_t zero[MAC_BYTES];
	const uint8_t *mac = spec_member_const(base, f->offset);
	const bool *given = spec_member_const(base, f->aux);

	if (!*given)
		return 0;
	if (mac[0] & 1)
		return error_set(err, -EINVAL,
				 "is a group address: the first byte of a card's address is even");
	if (memcmp(mac, zero, sizeof(zero)) == 0)
		return error_set(err, -EINVAL, "is all zeros, which no card can have");
	return 0;
}

static int mac_to_json(const struct spec_field *f, const void *base, json_t **ret)
{
	const bool *given = spec_member_const(base, f->aux);

	return *given ? spec_json_made(json_hex_shape(MAC_SHAPE,
						      spec_member_const(base, f->offset)),
				       ret)
		      : 0;
}

static void mac_clear(const struct spec_field *f, void *base)
{
	bool *given = spec_member(base, f->aux);

	memset(spec_member(base, f->offset), 0, MAC_BYTES);
	*given = false;
}

const struct spec_type spec_type_mac = {
	.json = SPEC_JSON_STRING,
	.parse = mac_parse,
	.to_json = mac_to_json,
	.clear = mac_clear,
	.check = mac_check,
};

/* --- UUID (RFC 4122, section 3) --- */

static int uuid_parse(const struct spec_field *f, void *base, const char *text, struct error *err)
{
	uint8_t uuid[UUID_BYTES];
	bool *given = spec_member(base, f->aux);

	if (!parse_hex_shape(text, UUID_SHAPE, uuid))
		return error_set(err, -EINVAL,
				 "'%s' is no UUID: write it as %s with hexadecimal digits", text,
				 UUID_SHAPE);
	memcpy(spec_member(base, f->offset), uuid, sizeof(uuid));
	*given = true;
	return 0;
}

static int uuid_to_json(const struct spec_field *f, const void *base, json_t **ret)
{
	const bool *given = spec_member_const(base, f->aux);

	return *given ? spec_json_made(json_hex_shape(UUID_SHAPE,
						      spec_member_const(base, f->offset)),
				       ret)
		      : 0;
}

static void uuid_clear(const struct spec_field *f, void *base)
{
	bool *given = spec_member(base, f->aux);

	memset(spec_member(base, f->offset), 0, UUID_BYTES);
	*given = false;
}

const struct spec_type spec_type_uuid = {
	.json = SPEC_JSON_STRING,
	.parse = uuid_parse,
	.to_json = uuid_to_json,
	.clear = uuid_clear,
};
