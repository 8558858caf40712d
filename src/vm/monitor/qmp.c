/*
 * The QMP server: sockets, negotiation, replies, events. (QEMU Machine Protocol specification, sections 2 and 3.)
 * Out-of-band execution is not offered: every command here is short.
 */
#include "vm/monitor/qmp.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/str.h"
#include "vm/monitor/qmp_int.h"

struct qmp_client {
	struct qmp *qmp; /* NULL: slot is free */
	struct loop_fd src;
	bool negotiated;
	struct qmp_framer in;
	char *out; /* what the socket has not taken yet */
	size_t out_len;
};

struct qmp {
	struct loop *loop;
	char *path;
	const struct qmp_target *target;
	struct loop_fd listener;
	struct qmp_client clients[QMP_MAX_CLIENTS];
};

const struct qmp_target *qmp_target_of(const struct qmp *qmp)
{
	return qmp->target;
}

static void client_close(struct qmp_client *client)
{
	loop_fd_del(&client->src);
	close(client->src.fd);
	qmp_framer_fini(&client->in);
	free(client->out);
	*client = (struct qmp_client){0};
}

/* --- output --- */

/* Writes as much of the pending text as the socket takes. -errno when the client is gone. */
static int client_flush(struct qmp_client *client)
{
	size_t done = 0;

	while (done < client->out_len) {
		ssize_t n = send(client->src.fd, client->out + done, client->out_len - done,
				 MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n < 0) {
			if (errno == EINTR)
				continue;
			if (errno == EAGAIN)
				break;
			return -errno;
		}
		done += (size_t)n;
	}
	client->out_len -= done;
	if (client->out_len == 0) {
		free(client->out);
		client->out = NULL;
	} else {
		memmove(client->out, client->out + done, client->out_len);
	}
	return loop_fd_mod(&client->src, LOOP_READ | (client->out_len ? LOOP_WRITE : 0));
}

static int client_send_text(struct qmp_client *client, const char *text, size_t len)
{
	char *out;

	if (client->out_len + len + 2 > QMP_MAX_PENDING)
		return -ENOBUFS;
	out = realloc(client->out, client->out_len + len + 2);
	if (!out)
		return -ENOMEM;
	memcpy(out + client->out_len, text, len);
	memcpy(out + client->out_len + len, "\r\n", 2);
	client->out = out;
	client->out_len += len + 2;
	return client_flush(client);
}

/* Takes over `value`. The client may be closed afterwards (client->qmp is NULL then). */
static void client_send(struct qmp_client *client, json_t *value)
{
	_cleanup_json_ json_t *owned = value;
	_cleanup_free_ char *text = owned ? json_dumps(owned, JSON_COMPACT) : NULL;

	if (!text || client_send_text(client, text, strlen(text)) < 0)
		client_close(client);
}

static json_t *qmp_greeting(void)
{
	/* Clients read the "qemu" triple to choose what to ask for: what we offer matches that of 7.2. */
	return json_pack("{s:{s:{s:{s:i,s:i,s:i},s:s},s:[]}}", "QMP", "version", "qemu", "micro", 0,
			 "minor", 2, "major", 7, "package", "vireo-" VIREO_VERSION, "capabilities");
}

static void client_send_error(struct qmp_client *client, const char *class_name, const char *desc,
			      json_t *id)
{
	json_t *reply = json_pack("{s:{s:s,s:s}}", "error", "class", class_name, "desc", desc);

	if (reply && id)
		json_object_set(reply, "id", id);
	client_send(client, reply);
}

static void client_send_return(struct qmp_client *client, json_t *result, json_t *id)
{
	json_t *reply = json_object();

	if (reply) {
		json_object_set_new(reply, "return", result ? result : json_object());
		if (id)
			json_object_set(reply, "id", id);
	} else {
		json_decref(result);
	}
	client_send(client, reply);
}

void qmp_event(struct qmp *qmp, const char *name, json_t *data)
{
	_cleanup_json_ json_t *owned = data;
	uint64_t now = clock_realtime_ns();
	_cleanup_json_ json_t *event = NULL;

	if (!qmp)
		return;
	event = json_pack("{s:{s:I,s:I},s:s}", "timestamp", "seconds",
			  (json_int_t)(now / NSEC_PER_SEC), "microseconds",
			  (json_int_t)(now % NSEC_PER_SEC / NSEC_PER_USEC), "event", name);
	if (!event)
		return;
	if (owned)
		json_object_set(event, "data", owned);
	for (size_t i = 0; i < QMP_MAX_CLIENTS; i++) {
		if (qmp->clients[i].qmp && qmp->clients[i].negotiated)
			client_send(&qmp->clients[i], json_incref(event));
	}
}

/* --- input --- */

static int check_arguments(const struct qmp_command *command, const json_t *args, struct error *err)
{
	const char *key;
	json_t *value;

	/* The iteration macro wants a pointer to non-const, and names it at each step; nothing is changed. */
	json_object_foreach ((json_t *)(uintptr_t)args, key, value) {
		bool known = false;

		for (const char *const *a = command->arguments; a && *a; a++)
			known = known || str_eq(*a, key);
		if (!known)
			return error_set(err, -EINVAL, "command '%s' takes no argument '%s'",
					 command->name, key);
	}
	return 0;
}

static const char *qmp_error_class(int code)
{
	return code == -ENODEV ? "DeviceNotActive" : "GenericError";
}

static void client_execute(struct qmp_client *client, const char *name, const json_t *args,
			   json_t *id)
{
	const struct qmp_command *command = qmp_command_find(name);
	struct error err = ERROR_INIT;
	json_t *result = NULL;
	char text[160];
	int r;

	if (str_eq(name, "qmp_capabilities")) {
		if (client->negotiated) {
			client_send_error(client, "CommandNotFound",
					  "capabilities are negotiated already", id);
			return;
		}
		client->negotiated = true;
		client_send_return(client, NULL, id);
		return;
	}
	if (!client->negotiated) {
		client_send_error(client, "CommandNotFound",
				  "execute 'qmp_capabilities' before any other command", id);
		return;
	}
	if (!command) {
		snprintf(text, sizeof(text), "the command %.100s is not known", name);
		client_send_error(client, "CommandNotFound", text, id);
		return;
	}
	r = args ? check_arguments(command, args, &err) : 0;
	if (r >= 0)
		r = command->run(client->qmp, args, &result, &err);
	/* The command may have sent an event to a client that is gone now. */
	if (!client->qmp) {
		json_decref(result);
		return;
	}
	if (r < 0)
		client_send_error(client, qmp_error_class(r), err.text, id);
	else
		client_send_return(client, result, id);
}

static void client_message(struct qmp_client *client, const char *text, size_t len)
{
	_cleanup_json_ json_t *message = NULL;
	struct error err = ERROR_INIT;
	const json_t *args;
	const char *name;

	if (json_parse(text, len, "command", &message, &err) < 0) {
		client_send_error(client, "GenericError", err.text, NULL);
		return;
	}
	name = json_string_value(json_object_get(message, "execute"));
	args = json_object_get(message, "arguments");
	if (!name || (args && !json_is_object(args))) {
		client_send_error(client, "GenericError",
				  "a command is an object with a string 'execute' and optionally "
				  "an object 'arguments'",
				  json_object_get(message, "id"));
		return;
	}
	client_execute(client, name, args, json_object_get(message, "id"));
}

static void client_readable(struct qmp_client *client)
{
	char chunk[4096];
	size_t len;
	ssize_t n = recv(client->src.fd, chunk, sizeof(chunk), MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0 || qmp_framer_feed(&client->in, chunk, (size_t)n) < 0) {
		client_close(client);
		return;
	}
	while (client->qmp && qmp_framer_next(&client->in, &len) == 1) {
		_cleanup_free_ char *copy = malloc(len);

		if (!copy) {
			client_close(client);
			return;
		}
		memcpy(copy, client->in.buf, len);
		qmp_framer_drop(&client->in, len);
		client_message(client, copy, len);
	}
}

static void client_ready(struct loop_fd *src, unsigned events)
{
	struct qmp_client *client = container_of(src, struct qmp_client, src);

	if ((events & LOOP_WRITE) && client_flush(client) < 0) {
		client_close(client);
		return;
	}
	if (events & (LOOP_READ | LOOP_HANGUP))
		client_readable(client);
}

static void listener_ready(struct loop_fd *src, unsigned events)
{
	struct qmp *qmp = container_of(src, struct qmp, listener);
	struct qmp_client *client = NULL;
	int fd = accept4(src->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	(void)events;
	if (fd < 0)
		return;
	for (size_t i = 0; i < QMP_MAX_CLIENTS && !client; i++) {
		if (!qmp->clients[i].qmp)
			client = &qmp->clients[i];
	}
	if (!client || loop_fd_add(qmp->loop, &client->src, fd, LOOP_READ, client_ready) < 0) {
		close(fd);
		return;
	}
	client->qmp = qmp;
	client_send(client, qmp_greeting());
}

/* --- life --- */

static int listen_error(struct error *err, int r, const char *path)
{
	if (r == -EADDRINUSE)
		return error_set(err, r,
				 "control socket '%s' is in use by another machine: give this one "
				 "another path, or end the other",
				 path);
	if (r == -EEXIST)
		return error_set(err, r,
				 "control socket '%s': a file of that name exists and is no "
				 "socket; remove it or give another path",
				 path);
	if (r == -ENAMETOOLONG)
		return error_set(err, r,
				 "control socket '%s': the path is longer than 107 characters",
				 path);
	return error_set_errno(err, r, "cannot make the control socket '%s'", path);
}

int qmp_new(struct loop *loop, const char *path, const struct qmp_target *target, struct qmp **ret,
	    struct error *err)
{
	struct qmp *qmp;
	int fd = unix_listen(path);
	int r;

	if (fd < 0)
		return listen_error(err, fd, path);
	qmp = calloc(1, sizeof(*qmp));
	if (!qmp) {
		close(fd);
		return error_set(err, -ENOMEM, "no memory for the control socket");
	}
	qmp->loop = loop;
	qmp->target = target;
	qmp->path = strdup(path);
	fd_set_nonblock(fd, true);
	r = qmp->path ? loop_fd_add(loop, &qmp->listener, fd, LOOP_READ, listener_ready) : -ENOMEM;
	if (r < 0) {
		close(fd);
		free(qmp->path);
		free(qmp);
		return error_set_errno(err, r, "cannot watch the control socket '%s'", path);
	}
	*ret = qmp;
	return 0;
}

void qmp_free(struct qmp *qmp)
{
	if (!qmp)
		return;
	for (size_t i = 0; i < QMP_MAX_CLIENTS; i++) {
		if (qmp->clients[i].qmp)
			client_close(&qmp->clients[i]);
	}
	loop_fd_del(&qmp->listener);
	close(qmp->listener.fd);
	unlink(qmp->path);
	free(qmp->path);
	free(qmp);
}
