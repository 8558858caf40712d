#include "host/domain/qmp_client.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "base/fd.h"
#include "base/str.h"

#define MAX_LINE (4 * MIB)
#define MAX_OUT  (1 * MIB)

struct qmp_client {
	struct loop *loop;
	struct loop_fd fd;
	struct qmp_client_hooks hooks;
	struct qmp_client_reply *replies, **replies_tail;
	struct qmp_client_reply hello; /* of qmp_capabilities */
	struct loop_msg broken_msg;
	bool broken;
	char *in;
	size_t in_len, in_room;
	char *out;
	size_t out_len;
};

static void client_break(struct qmp_client *client)
{
	if (client->broken)
		return;
	client->broken = true;
	loop_fd_del(&client->fd);
	loop_post(client->loop, &client->broken_msg);
}

static void fail_replies(struct qmp_client *client)
{
	struct error err = ERROR_INIT;

	error_set(&err, -ECANCELED, "the machine's control socket was closed");
	while (client->replies) {
		struct qmp_client_reply *reply = client->replies;

		client->replies = reply->next;
		if (!client->replies)
			client->replies_tail = &client->replies;
		reply->fn(reply, -ECANCELED, NULL, &err);
	}
}

static void client_broken(struct loop_msg *msg)
{
	struct qmp_client *client = container_of(msg, struct qmp_client, broken_msg);

	client->hooks.closed(client->hooks.opaque);
}

/* --- output --- */

static void client_flush(struct qmp_client *client)
{
	while (client->out_len > 0) {
		ssize_t n = send(client->fd.fd, client->out, client->out_len,
				 MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n < 0) {
			if (errno != EAGAIN && errno != EINTR)
				client_break(client);
			break;
		}
		client->out_len -= (size_t)n;
		memmove(client->out, client->out + n, client->out_len);
	}
	if (!client->broken)
		loop_fd_mod(&client->fd, LOOP_READ | (client->out_len > 0 ? LOOP_WRITE : 0));
}

static int client_queue(struct qmp_client *client, const char *text, size_t len)
{
	char *out;

	if (client->out_len + len + 1 > MAX_OUT)
		return -ENOBUFS;
	out = realloc(client->out, client->out_len + len + 1);
	if (!out)
		return -ENOMEM;
	client->out = out;
	memcpy(out + client->out_len, text, len);
	out[client->out_len + len] = '\n';
	client->out_len += len + 1;
	return 0;
}

void qmp_client_execute(struct qmp_client *client, const char *command, json_t *args,
			struct qmp_client_reply *reply)
{
	_cleanup_json_ json_t *message = json_pack("{s:s}", "execute", command);
	_cleanup_free_ char *text = NULL;
	int r = -ENOMEM;

	if (args)
		json_object_set_new(message, "arguments", args);
	text = message ? json_dumps(message, JSON_COMPACT) : NULL;
	reply->next = NULL;
	*client->replies_tail = reply;
	client->replies_tail = &reply->next;
	if (text && !client->broken)
		r = client_queue(client, text, strlen(text));
	/* The answer comes from the loop in every case. */
	if (r < 0)
		client_break(client);
	else
		client_flush(client);
}

/* --- input --- */

static void take_answer(struct qmp_client *client, const json_t *message, const json_t *ret,
			const json_t *error)
{
	struct qmp_client_reply *reply = client->replies;
	struct error err = ERROR_INIT;
	const char *text;

	if (!reply) {
		client_break(client);
		return;
	}
	client->replies = reply->next;
	if (!client->replies)
		client->replies_tail = &client->replies;
	if (ret) {
		reply->fn(reply, 0, ret, &err);
		return;
	}
	text = json_string_value(json_object_get(error, "desc"));
	error_set(&err, -ECHILD, "the machine says: %.400s", text ? text : "no reason");
	reply->fn(reply, -ECHILD, error, &err);
}

static void take_line(struct qmp_client *client, const char *line, size_t len)
{
	_cleanup_json_ json_t *message = NULL;
	const char *event;
	const json_t *ret, *error;

	if (json_parse(line, len, "QMP", &message, NULL) < 0 || !json_is_object(message)) {
		client_break(client);
		return;
	}
	event = json_string_value(json_object_get(message, "event"));
	ret = json_object_get(message, "return");
	error = json_object_get(message, "error");
	if (event)
		client->hooks.event(client->hooks.opaque, event, json_object_get(message, "data"));
	else if (ret || error)
		take_answer(client, message, ret, error);
	else if (!json_object_get(message, "QMP"))
		client_break(client);
}

static void take_lines(struct qmp_client *client)
{
	size_t start = 0;
	const char *end;

	while (!client->broken &&
	       (end = memchr(client->in + start, '\n', client->in_len - start))) {
		size_t len = (size_t)(end - client->in) - start;

		if (len > 0 && client->in[start + len - 1] == '\r')
			take_line(client, client->in + start, len - 1);
		else if (len > 0)
			take_line(client, client->in + start, len);
		start += (size_t)(end - (client->in + start)) + 1;
	}
	client->in_len -= start;
	memmove(client->in, client->in + start, client->in_len);
}

static bool client_room(struct qmp_client *client)
{
	size_t room = client->in_room ? client->in_room * 2 : 4 * KIB;
	char *in;

	if (client->in_len < client->in_room)
		return true;
	in = room > MAX_LINE ? NULL : realloc(client->in, room);
	if (!in)
		return false;
	client->in = in;
	client->in_room = room;
	return true;
}

static void client_ready(struct loop_fd *src, unsigned events)
{
	struct qmp_client *client = container_of(src, struct qmp_client, fd);
	ssize_t n;

	if (events & LOOP_WRITE)
		client_flush(client);
	if (client->broken || !(events & (LOOP_READ | LOOP_HANGUP)))
		return;
	if (!client_room(client)) {
		client_break(client);
		return;
	}
	n = recv(src->fd, client->in + client->in_len, client->in_room - client->in_len,
		 MSG_DONTWAIT);
	if (n > 0) {
		client->in_len += (size_t)n;
		take_lines(client);
	} else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
		client_break(client);
	}
}

static void hello_done(struct qmp_client_reply *reply, int r, const json_t *ret,
		       const struct error *err)
{
	if (r < 0)
		client_break(container_of(reply, struct qmp_client, hello));
}

int qmp_client_new(struct loop *loop, const char *path, const struct qmp_client_hooks *hooks,
		   struct qmp_client **ret)
{
	struct qmp_client *client;
	int fd = unix_connect(path);
	int r;

	if (fd < 0)
		return fd;
	client = calloc(1, sizeof(*client));
	r = client ? loop_fd_add(loop, &client->fd, fd, LOOP_READ, client_ready) : -ENOMEM;
	if (r < 0) {
		close(fd);
		free(client);
		return r;
	}
	client->loop = loop;
	client->hooks = *hooks;
	client->replies_tail = &client->replies;
	client->broken_msg.fn = client_broken;
	client->hello.fn = hello_done;
	qmp_client_execute(client, "qmp_capabilities", NULL, &client->hello);
	*ret = client;
	return 0;
}

void qmp_client_free(struct qmp_client *client)
{
	if (!client)
		return;
	client->broken = true;
	loop_fd_del(&client->fd);
	close(client->fd.fd);
	loop_unpost(client->loop, &client->broken_msg);
	fail_replies(client);
	free(client->in);
	free(client->out);
	free(client);
}
