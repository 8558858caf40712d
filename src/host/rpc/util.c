/* What handlers share: finding the machine of a call, filling answers. Loop's thread. */
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "host/rpc/procs_int.h"
#include "host/system/uuid.h"

struct domain *rpc_call_domain(struct rpc_call *call, const w_dom *arg, struct error *err)
{
	const uint8_t *uuid = (const uint8_t *)arg->uuid;
	struct domain *dom = domain_by_uuid(call->client->server->host->domains, uuid);
	char text[UUID_TEXT_BYTES];

	call->what = RPC_OBJECT_DOMAIN;
	if (!dom) {
		uuid_format(uuid, text);
		error_set(err, -ENOENT, "no domain with matching uuid '%s' (%.63s)", text,
			  arg->name);
		return NULL;
	}
	call->domain = domain_ref(dom);
	return dom;
}

struct domain *rpc_call_running(struct rpc_call *call, const w_dom *arg, struct error *err)
{
	struct domain *dom = rpc_call_domain(call, arg, err);

	if (dom && !domain_active(dom)) {
		error_set(err, -EBADFD, "domain is not running");
		return NULL;
	}
	return dom;
}

int rpc_put_text(w_text *ret, const char *text, struct error *err)
{
	return rpc_take_text(ret, text ? strdup(text) : NULL, err);
}

int rpc_take_text(w_text *ret, char *text, struct error *err)
{
	*ret = text;
	return text ? 0 : error_set(err, -ENOMEM, "no memory for the answer");
}

int rpc_put_dom(w_dom *ret, const struct domain *dom, struct error *err)
{
	memcpy(ret->uuid, dom->uuid, sizeof(ret->uuid));
	ret->id = dom->id;
	return rpc_put_text(&ret->name, dom->name, err);
}

int rpc_check_flags(struct rpc_call *call, unsigned flags, unsigned known, struct error *err)
{
	if ((flags & ~known) == 0)
		return 0;
	return error_set(err, -EINVAL, "unsupported flags (0x%x) in %s", flags & ~known,
			 call->proc->name);
}

static w_param *params_add(struct rpc_params *params, const char *name, va_list ap)
{
	w_param *param;

	if (params->count == params->room) {
		u_int room = params->room ? params->room * 2 : 32;
		w_param *array = realloc(params->array, room * sizeof(*array));

		if (!array) {
			params->failed = true;
			return NULL;
		}
		params->array = array;
		params->room = room;
	}
	param = &params->array[params->count];
	*param = (w_param){0};
	if (vasprintf(&param->field, name, ap) < 0) {
		params->failed = true;
		return NULL;
	}
	params->count++;
	return param;
}

void rpc_params_int(struct rpc_params *params, int type, uint64_t value, const char *name, ...)
{
	w_param *param;
	va_list ap;

	va_start(ap, name);
	param = params_add(params, name, ap);
	va_end(ap);
	if (!param)
		return;
	param->value.type = type;
	if (type == W_PARAM_ULLONG || type == W_PARAM_LLONG)
		param->value.w_value_u.ul = value;
	else
		param->value.w_value_u.ui = (u_int)value;
}

void rpc_params_text(struct rpc_params *params, const char *text, const char *name, ...)
{
	w_param *param;
	va_list ap;

	va_start(ap, name);
	param = params_add(params, name, ap);
	va_end(ap);
	if (!param)
		return;
	param->value.type = W_PARAM_STRING;
	param->value.w_value_u.s = strdup(text);
	if (!param->value.w_value_u.s) {
		/* A string that is NULL cannot be encoded. */
		param->value = (w_value){.type = W_PARAM_INT};
		params->failed = true;
	}
}

void rpc_params_free(struct rpc_params *params)
{
	w_params all = {.params = {params->count, params->array}};

	xdr_free((xdrproc_t)xdr_w_params, (char *)&all);
	*params = (struct rpc_params){0};
}
