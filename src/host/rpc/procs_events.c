/* Registering for events, one pair of procedures a family. Loop's thread. */
#include "host/rpc/procs_int.h"

/* `only`: the object that the client wants to hear of, if it named one; its UUID matters for machines and pools. */
static int add(struct rpc_call *call, enum rpc_event_family family, int event, const uint8_t *only,
	       void *ret, struct error *err)
{
	return rpc_event_register(call->client, family, event, only, &((w_int *)ret)->value, err);
}

static int drop(struct rpc_call *call, enum rpc_event_family family, const void *args,
		struct error *err)
{
	return rpc_event_deregister(call->client, family, ((const w_int *)args)->value, err);
}

int rpc_domain_events_register(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	const w_event_register *a = args;

	return add(call, RPC_EVENTS_DOMAIN, a->event, a->dom ? (const uint8_t *)a->dom->uuid : NULL,
		   ret, err);
}

int rpc_domain_events_deregister(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	return drop(call, RPC_EVENTS_DOMAIN, args, err);
}

int rpc_network_events_register(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	return add(call, RPC_EVENTS_NETWORK, ((const w_event_register_net *)args)->event, NULL, ret,
		   err);
}

int rpc_network_events_deregister(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	return drop(call, RPC_EVENTS_NETWORK, args, err);
}

int rpc_pool_events_register(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	const w_event_register_pool *a = args;

	return add(call, RPC_EVENTS_POOL, a->event, a->pool ? (const uint8_t *)a->pool->uuid : NULL,
		   ret, err);
}

int rpc_pool_events_deregister(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	return drop(call, RPC_EVENTS_POOL, args, err);
}

int rpc_node_device_events_register(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	return add(call, RPC_EVENTS_NODE_DEVICE, ((const w_event_register_named *)args)->event,
		   NULL, ret, err);
}

int rpc_node_device_events_deregister(struct rpc_call *call, void *args, void *ret,
				      struct error *err)
{
	return drop(call, RPC_EVENTS_NODE_DEVICE, args, err);
}

int rpc_secret_events_register(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	return add(call, RPC_EVENTS_SECRET, ((const w_event_register_secret *)args)->event, NULL,
		   ret, err);
}

int rpc_secret_events_deregister(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	return drop(call, RPC_EVENTS_SECRET, args, err);
}
