/*
 * Events: who wants to hear of what. A registration is a callback with a number of its own, as clients have it since feature 14; families
 * that never have news here (networks, say) are accepted, so that clients that watch everything work. Loop's thread.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "host/rpc/server_int.h"

#define MAX_CALLBACKS 1024 /* of one client */

/* libvirt's event ids and the procedures of their messages. */
enum { EVENT_ID_LIFECYCLE = 0, EVENT_ID_REBOOT = 1, N_DOMAIN_EVENT_IDS = 27 };
enum { EVENT_ID_REFRESH = 1 }; /* of pools */
enum { PROC_EVENT_LIFECYCLE = 318, PROC_EVENT_REBOOT = 319 };
enum { PROC_POOL_LIFECYCLE = 370, PROC_POOL_REFRESHED = 373 };

struct rpc_callback {
	struct rpc_callback *next;
	int number;
	uint32_t family;
	int event;
	bool one; /* only of the machine with this UUID */
	uint8_t uuid[16];
};

int rpc_event_register(struct rpc_client *client, uint32_t family, int event,
		       const uint8_t *only_uuid, int *ret_callback, struct error *err)
{
	struct rpc_callback *callback;

	if (event < 0 || (family == RPC_EVENTS_DOMAIN && event >= N_DOMAIN_EVENT_IDS))
		return error_set(err, -EINVAL, "unsupported event ID %d", event);
	if (client->n_callbacks >= MAX_CALLBACKS)
		return error_set(err, -ECANCELED, "a client may register %d callbacks at most",
				 MAX_CALLBACKS);
	callback = calloc(1, sizeof(*callback));
	if (!callback)
		return error_set(err, -ENOMEM, "no memory for a callback");
	callback->number = client->server->next_callback++;
	callback->family = family;
	callback->event = event;
	if (only_uuid) {
		callback->one = true;
		memcpy(callback->uuid, only_uuid, sizeof(callback->uuid));
	}
	callback->next = client->callbacks;
	client->callbacks = callback;
	client->n_callbacks++;
	*ret_callback = callback->number;
	return 0;
}

int rpc_event_deregister(struct rpc_client *client, uint32_t family, int number, struct error *err)
{
	for (struct rpc_callback **at = &client->callbacks; *at; at = &(*at)->next) {
		struct rpc_callback *callback = *at;

		if (callback->number != number || callback->family != family)
			continue;
		*at = callback->next;
		client->n_callbacks--;
		free(callback);
		return 0;
	}
	return error_set(err, -EINVAL, "no callback %d is registered", number);
}

void rpc_events_gone(struct rpc_client *client)
{
	while (client->callbacks) {
		struct rpc_callback *callback = client->callbacks;

		client->callbacks = callback->next;
		free(callback);
	}
	client->n_callbacks = 0;
}

static void send_event(struct rpc_client *client, const struct rpc_callback *callback,
		       const struct domain_event *event)
{
	struct rpc_header header = {
		.program = RPC_PROGRAM_REMOTE,
		.version = RPC_VERSION,
		.type = RPC_MESSAGE,
	};
	/* Encoding does not write to the name. */
	w_dom dom = {.name = (char *)(uintptr_t)event->name, .id = event->dom->id};

	memcpy(dom.uuid, event->dom->uuid, sizeof(dom.uuid));
	if (event->kind == DOMAIN_EVENT_LIFECYCLE) {
		w_event_lifecycle msg = {callback->number, dom, event->event, event->detail};

		header.procedure = PROC_EVENT_LIFECYCLE;
		rpc_client_send(client, &header, (xdrproc_t)xdr_w_event_lifecycle, &msg);
	} else {
		w_event_dom msg = {callback->number, dom};

		header.procedure = PROC_EVENT_REBOOT;
		rpc_client_send(client, &header, (xdrproc_t)xdr_w_event_dom, &msg);
	}
}

static void events_hear(struct domain_listener *listener, const struct domain_event *event)
{
	struct rpc_server *server = container_of(listener, struct rpc_server, events);
	int id = event->kind == DOMAIN_EVENT_LIFECYCLE ? EVENT_ID_LIFECYCLE : EVENT_ID_REBOOT;

	for (struct rpc_client *client = server->clients; client; client = client->next) {
		for (const struct rpc_callback *callback = client->callbacks; callback;
		     callback = callback->next) {
			if (callback->family != RPC_EVENTS_DOMAIN || callback->event != id)
				continue;
			if (callback->one &&
			    memcmp(callback->uuid, event->dom->uuid, sizeof(callback->uuid)) != 0)
				continue;
			send_event(client, callback, event);
		}
	}
}

static void send_pool_event(struct rpc_client *client, const struct rpc_callback *callback,
			    const struct storage_pool *pool, enum storage_event event)
{
	struct rpc_header header = {
		.program = RPC_PROGRAM_REMOTE,
		.version = RPC_VERSION,
		.type = RPC_MESSAGE,
	};
	w_pool handle = {.name = pool->def->name};

	memcpy(handle.uuid, pool->def->uuid, sizeof(handle.uuid));
	if (event == STORAGE_REFRESHED) {
		w_pool_refreshed msg = {callback->number, handle};

		header.procedure = PROC_POOL_REFRESHED;
		rpc_client_send(client, &header, (xdrproc_t)xdr_w_pool_refreshed, &msg);
	} else {
		w_pool_event msg = {callback->number, handle, event, 0};

		header.procedure = PROC_POOL_LIFECYCLE;
		rpc_client_send(client, &header, (xdrproc_t)xdr_w_pool_event, &msg);
	}
}

static void pools_hear(struct storage_listener *listener, const struct storage_pool *pool,
		       enum storage_event event)
{
	struct rpc_server *server = container_of(listener, struct rpc_server, pool_events);
	int id = event == STORAGE_REFRESHED ? EVENT_ID_REFRESH : EVENT_ID_LIFECYCLE;

	for (struct rpc_client *client = server->clients; client; client = client->next)
		for (const struct rpc_callback *callback = client->callbacks; callback;
		     callback = callback->next)
			if (callback->family == RPC_EVENTS_POOL && callback->event == id &&
			    (!callback->one || memcmp(callback->uuid, pool->def->uuid, 16) == 0))
				send_pool_event(client, callback, pool, event);
}

void rpc_events_init(struct rpc_server *server)
{
	server->events.fn = events_hear;
	domain_listen(server->host->domains, &server->events);
	server->pool_events.fn = pools_hear;
	storage_listen(server->host->storage, &server->pool_events);
}

void rpc_events_fini(struct rpc_server *server)
{
	domain_unlisten(server->host->domains, &server->events);
	storage_listen(server->host->storage, NULL);
}
