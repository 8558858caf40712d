/* Errors as libvirt's clients know them: its codes, the part of the daemon that speaks, and the words before the text. Loop's thread. */
#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "host/rpc/rpc_int.h"

#define LEVEL_ERROR 2

/* libvirt's numbers for who speaks. */
enum {
	FROM_NONE = 0,
	FROM_RPC = 7,
	FROM_QEMU = 10,
	FROM_STORAGE = 18,
	FROM_NETWORK = 19,
	FROM_DOMAIN = 20,
	FROM_NODE_DEVICE = 22,
	FROM_SECRET = 28,
	FROM_INTERFACE = 26,
	FROM_NWFILTER = 33
};

struct object_words {
	int not_found; /* code */
	int from;
};

static const struct object_words objects[] = {
	[RPC_OBJECT_NONE] = {RPC_ERR_SYSTEM, FROM_QEMU},
	[RPC_OBJECT_DOMAIN] = {RPC_ERR_NO_DOMAIN, FROM_QEMU},
	[RPC_OBJECT_NETWORK] = {RPC_ERR_NO_NETWORK, FROM_NETWORK},
	[RPC_OBJECT_POOL] = {RPC_ERR_NO_POOL, FROM_STORAGE},
	[RPC_OBJECT_VOLUME] = {RPC_ERR_NO_VOLUME, FROM_STORAGE},
	[RPC_OBJECT_NODE_DEVICE] = {RPC_ERR_NO_NODE_DEVICE, FROM_NODE_DEVICE},
	[RPC_OBJECT_SECRET] = {RPC_ERR_NO_SECRET, FROM_SECRET},
	[RPC_OBJECT_NWFILTER] = {RPC_ERR_NO_NWFILTER, FROM_NWFILTER},
	[RPC_OBJECT_INTERFACE] = {RPC_ERR_NO_INTERFACE, FROM_INTERFACE},
};

static const struct {
	int errno_code, code;
} codes[] = {
	{-EBADFD, RPC_ERR_OPERATION_INVALID},
	{-EBUSY, RPC_ERR_OPERATION_INVALID},
	{-EOPNOTSUPP, RPC_ERR_CONFIG_UNSUPPORTED},
	{-EBADMSG, RPC_ERR_XML},
	{-EINVAL, RPC_ERR_INVALID_ARG},
	{-EEXIST, RPC_ERR_OPERATION_FAILED},
	{-ECANCELED, RPC_ERR_OPERATION_FAILED},
	{-ETIMEDOUT, RPC_ERR_TIMEOUT},
	{-EACCES, RPC_ERR_OPERATION_DENIED},
	{-ENOSYS, RPC_ERR_NO_SUPPORT},
	{-ENOMEM, RPC_ERR_NO_MEMORY},
	{-EPROTO, RPC_ERR_RPC},
	{-ECHILD, RPC_ERR_INTERNAL},
};

/* What clients, and the scripts that read their output, expect before the text. */
static const struct {
	int code;
	const char *words;
} prefixes[] = {
	{RPC_ERR_INTERNAL, "internal error: "},
	{RPC_ERR_NO_MEMORY, "out of memory: "},
	{RPC_ERR_NO_SUPPORT, "this function is not supported by the connection driver: "},
	{RPC_ERR_INVALID_ARG, "invalid argument: "},
	{RPC_ERR_OPERATION_FAILED, "operation failed: "},
	{RPC_ERR_XML, "XML error: "},
	{RPC_ERR_OPERATION_DENIED, "operation forbidden: "},
	{RPC_ERR_NO_DOMAIN, "Domain not found: "},
	{RPC_ERR_NO_NETWORK, "Network not found: "},
	{RPC_ERR_AUTH, "authentication failed: "},
	{RPC_ERR_NO_POOL, "Storage pool not found: "},
	{RPC_ERR_NO_VOLUME, "Storage volume not found: "},
	{RPC_ERR_NO_NODE_DEVICE, "Node device not found: "},
	{RPC_ERR_OPERATION_INVALID, "Requested operation is not valid: "},
	{RPC_ERR_NO_INTERFACE, "Interface not found: "},
	{RPC_ERR_NO_NWFILTER, "Network filter not found: "},
	{RPC_ERR_NO_SECRET, "Secret not found: "},
	{RPC_ERR_CONFIG_UNSUPPORTED, "unsupported configuration: "},
	{RPC_ERR_TIMEOUT, "Timed out during operation: "},
	{RPC_ERR_NO_METADATA, "metadata not found: "},
	{RPC_ERR_OPERATION_UNSUPPORTED, "Operation not supported: "},
};

static int code_of(int errno_code, int what)
{
	if (errno_code == -ENOENT)
		return objects[what].not_found;
	for (size_t i = 0; i < ARRAY_SIZE(codes); i++)
		if (codes[i].errno_code == errno_code)
			return codes[i].code;
	return RPC_ERR_SYSTEM;
}

static const char *words_of(int code)
{
	for (size_t i = 0; i < ARRAY_SIZE(prefixes); i++)
		if (prefixes[i].code == code)
			return prefixes[i].words;
	return "";
}

/* A heap string behind a heap pointer, as XDR's optional data is; NULL without memory. */
static w_opt_text opt_text(const char *text)
{
	w_opt_text ret = malloc(sizeof(*ret));

	if (!ret)
		return NULL;
	*ret = strdup(text);
	if (!*ret) {
		free(ret);
		return NULL;
	}
	return ret;
}

void rpc_error_fill(w_error *ret, const struct error *err, int what, int code)
{
	char text[sizeof(err->text) + 80];

	if (code == 0)
		code = code_of(err->code, what);
	snprintf(text, sizeof(text), "%s%s", words_of(code), err->text);
	*ret = (w_error){
		.code = code,
		.domain = code == RPC_ERR_RPC ? FROM_RPC : objects[what].from,
		.level = LEVEL_ERROR,
		.message = opt_text(text),
		.str1 = opt_text("%s"),
		.str2 = opt_text(text),
		.int1 = -1,
		.int2 = -1,
	};
}
