/*
 * What a client sends, to a server of its own. Bits of the first byte: the socket is the read-only one; the rest is sent as it is, to try the framing,
 * instead of as calls (a procedure and a length of two bytes each, then arguments). There is no vireo-vmm, so nothing starts.
 */
#include <assert.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/log.h"
#include "host/rpc/frame.h"
#include "host/rpc/rpc.h"
#include "host/storage/storage.h"
#include "host/system/caps.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct {
	struct loop *loop;
	struct domain_set *domains;
	struct rpc_host host;
	struct rpc_server *server;
} rig;

static void rig_up(void)
{
	static char dir[] = "/tmp/vireo-fuzz-XXXXXX";
	const struct rpc_limits limits = RPC_LIMITS_DEFAULT;

	log_init("fuzz", LOG_ERROR);
	spec_xml_init();
	assert(mkdtemp(dir));
	const struct domain_config config = {{dir, dir, dir}, "/nonexistent", "/nonexistent"};

	assert(loop_new(&rig.loop) == 0);
	assert(domain_set_new(rig.loop, &config, &rig.domains, NULL) == 0);
	assert(caps_new("/nonexistent", &rig.host.caps, NULL) == 0);
	rig.host.domains = rig.domains;
	assert(storage_set_new(rig.loop, dir, &rig.host.storage, NULL) == 0);
	rig.host.uri = "qemu:///system";
	assert(rpc_server_new(rig.loop, &rig.host, &limits, &rig.server, NULL) == 0);
}

static void send_call(int fd, int procedure, const uint8_t *args, size_t len)
{
	const struct rpc_header header = {RPC_PROGRAM_REMOTE, RPC_VERSION, procedure,
					  RPC_CALL,           0,           RPC_OK};
	uint8_t head[RPC_FRAME_MIN];

	rpc_frame_put(head, &header, len);
	if (write(fd, head, sizeof(head)) < 0 || write(fd, args, len) < 0)
		abort();
}

static void send_calls(int fd, const uint8_t *data, size_t size)
{
	while (size >= 4) {
		size_t len = MIN((size_t)(data[2] << 8 | data[3]), size - 4);

		send_call(fd, data[0] << 8 | data[1], data + 4, len);
		data += 4 + len;
		size -= 4 + len;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const uint8_t nothing[8]; /* CONNECT_OPEN's arguments: no name, no flags */
	int fds[2];

	if (size < 1)
		return 0;
	if (!rig.loop)
		rig_up();
	assert(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) == 0);
	assert(rpc_server_accept(rig.server, fds[0], data[0] & 1) == 0);
	send_call(fds[1], 1, nothing, sizeof(nothing));
	if (data[0] & 2)
		(void)!write(fds[1], data + 1, size - 1);
	else
		send_calls(fds[1], data + 1, size - 1);
	shutdown(fds[1], SHUT_WR);
	/* Until it has been read to its end and put away: a definition's file is written meanwhile. */
	while (rpc_server_n_clients(rig.server) > 0)
		loop_run_once(rig.loop, 100);
	close(fds[1]);
	return 0;
}
