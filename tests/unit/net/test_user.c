/* User-mode networking with the real passt: it starts, serves DHCP and the host's servers, forwards ports, ends with us;
 * what can go wrong at its start is said. */
#include "unit/test.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <sched.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/clock.h"
#include "base/endian.h"
#include "base/str.h"
#include "vm/net/passt_int.h"
#include "vm/net/stream_int.h"

static struct loop *loop;
static bool link_down;

static const uint8_t guest_mac[6] = {0x52, 0x54, 0, 0x12, 0x34, 0x56};

static void on_link(void *opaque, bool up)
{
	link_down = !up;
}

static void nothing(void *opaque, unsigned queue)
{
}

static struct net_backend *open_ok(const char *const *hostfwd)
{
	struct net_user_config config = {.hostfwd = hostfwd};
	struct error err = ERROR_INIT;
	struct net_backend *net = NULL;

	if (net_user_open(loop, &config, &net, &err) < 0)
		fail_msg("%s", err.text);
	net->events = (struct net_events){nothing, nothing, on_link, NULL};
	return net;
}

/* --- the guest's side of a few protocols --- */

struct frame {
	uint8_t hdr[NET_HDR_BYTES];
	uint8_t dst[6], src[6];
	be16 type;
	uint8_t body[1500];
} __attribute__((packed));

static void put_sum(uint8_t *ip, size_t len, uint32_t sum, size_t at)
{
	for (size_t i = 0; i < len; i += 2)
		sum += (uint32_t)ip[i] << 8 | (i + 1 < len ? ip[i + 1] : 0);
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	ip[at] = (uint8_t)(~sum >> 8);
	ip[at + 1] = (uint8_t)~sum;
}

static void put16(uint8_t *p, unsigned v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

static void send_ip(struct net_backend *net, unsigned proto, const char *src, const char *dst,
		    const uint8_t *l4, size_t len)
{
	struct frame f = {.type = be16_of(0x0800)};
	uint8_t *ip = f.body;
	struct iovec iov = {&f, sizeof(f) - sizeof(f.body) + 20 + len};

	memset(f.dst, 0xff, 6);
	memcpy(f.src, guest_mac, 6);
	ip[0] = 0x45;
	put16(ip + 2, (unsigned)(20 + len));
	ip[8] = 64;
	ip[9] = (uint8_t)proto;
	inet_pton(AF_INET, src, ip + 12);
	inet_pton(AF_INET, dst, ip + 16);
	put_sum(ip, 20, 0, 10);
	memcpy(ip + 20, l4, len);
	assert_int_equal(net->ops->send(net, 0, &iov, 1), 0);
}

/* The next IPv4 packet of this protocol, from Ethernet header on; waits for it. */
static size_t receive_ip(struct net_backend *net, unsigned proto, struct frame *f)
{
	struct net_stream *stream = container_of(net, struct net_stream, net);
	struct iovec iov = {f, sizeof(*f)};

	for (;;) {
		struct pollfd p = {.fd = stream->src.fd, .events = POLLIN};
		ssize_t n = net->ops->receive(net, 0, &iov, 1);

		if (n == -EAGAIN && poll(&p, 1, 10000) <= 0)
			return 0;
		if (n > NET_HDR_BYTES + 34 && be16_get(f->type) == 0x0800 && f->body[9] == proto)
			return (size_t)n - NET_HDR_BYTES - 14;
	}
}

static void check_dhcp(struct net_backend *net)
{
	uint8_t udp[8 + 240 + 16] = {0};
	uint8_t *bootp = udp + 8;
	struct frame f = {0};
	char got[INET_ADDRSTRLEN];

	put16(udp, 68);
	put16(udp + 2, 67);
	put16(udp + 4, sizeof(udp));
	bootp[0] = 1;
	bootp[1] = 1;
	bootp[2] = 6;
	memcpy(bootp + 28, guest_mac, 6);
	memcpy(bootp + 236, "\x63\x82\x53\x63\x35\x01\x01\xff", 8);
	send_ip(net, 17, "0.0.0.0", "255.255.255.255", udp, sizeof(udp));
	assert_true(receive_ip(net, 17, &f) > 28 + 240);
	assert_non_null(inet_ntop(AF_INET, f.body + 28 + 16, got, sizeof(got)));
	assert_string_equal(got, NET_USER_GUEST_ADDR);
}

static void send_tcp(struct net_backend *net, unsigned port, uint32_t seq, uint32_t ack,
		     unsigned flags, const char *text)
{
	uint8_t tcp[200] = {0};
	size_t len = strlen(text);

	put16(tcp, 40000);
	put16(tcp + 2, port);
	put16(tcp + 4, seq >> 16);
	put16(tcp + 6, seq);
	put16(tcp + 8, ack >> 16);
	put16(tcp + 10, ack);
	tcp[12] = 0x50;
	tcp[13] = (uint8_t)flags;
	put16(tcp + 14, 60000);
	/* The checksum stays zero, as a guest leaves it that was promised checksum offload. */
	memcpy(tcp + 20, text, len);
	send_ip(net, 6, NET_USER_GUEST_ADDR, NET_USER_GATEWAY_ADDR, tcp, 20 + len);
}

/* A server on the host's loopback, reached by the gateway's address. */
static void check_host_server(struct net_backend *net)
{
	struct sockaddr_in addr = {.sin_family = AF_INET,
				   .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t size = sizeof(addr);
	int srv = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct frame f = {0};
	char text[8] = "";
	uint32_t seq;
	int conn;

	assert_int_equal(bind(srv, (struct sockaddr *)&addr, size), 0);
	assert_int_equal(listen(srv, 1), 0);
	getsockname(srv, (struct sockaddr *)&addr, &size);
	send_tcp(net, ntohs(addr.sin_port), 1000, 0, 2, "");
	assert_true(receive_ip(net, 6, &f) >= 40);
	assert_int_equal(f.body[20 + 13], 0x12);
	seq = (uint32_t)f.body[24] << 24 | (uint32_t)f.body[25] << 16 | (uint32_t)f.body[26] << 8 |
	      f.body[27];
	send_tcp(net, ntohs(addr.sin_port), 1001, seq + 1, 0x10, "");
	send_tcp(net, ntohs(addr.sin_port), 1001, seq + 1, 0x18, "hello");
	conn = accept(srv, NULL, NULL);
	assert_true(conn >= 0);
	assert_int_equal(recv(conn, text, 5, MSG_WAITALL), 5);
	assert_string_equal(text, "hello");
	close(conn);
	close(srv);
}

/* Children that nobody reaped. */
static void assert_no_children(void)
{
	assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
	assert_int_equal(errno, ECHILD);
}

static void test_serves_and_ends(void **state)
{
	struct net_backend *net = open_ok(NULL);

	check_dhcp(net);
	check_host_server(net);
	net_backend_free(net);
	assert_no_children();
}

static void test_without_any_route(void **state)
{
	pid_t pid;
	int status;

	if (geteuid() != 0)
		skip();
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		struct net_user_config config = {0};
		struct error err = ERROR_INIT;
		struct net_backend *net;

		if (unshare(CLONE_NEWNET) < 0)
			_exit(77);
		if (net_user_open(loop, &config, &net, &err) < 0) {
			fprintf(stderr, "%s\n", err.text);
			_exit(1);
		}
		net_backend_free(net);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
		skip();
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

static unsigned free_port(int *ret_fd)
{
	struct sockaddr_in addr = {.sin_family = AF_INET,
				   .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t size = sizeof(addr);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_int_equal(bind(fd, (struct sockaddr *)&addr, size), 0);
	assert_int_equal(listen(fd, 1), 0);
	getsockname(fd, (struct sockaddr *)&addr, &size);
	*ret_fd = fd;
	return ntohs(addr.sin_port);
}

static void test_forwards(void **state)
{
	struct sockaddr_in addr = {.sin_family = AF_INET,
				   .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	char fwd[2][64];
	const char *forwards[] = {fwd[0], fwd[1], NULL};
	struct net_backend *net;
	struct frame f = {0};
	unsigned port;
	int held[2];
	int fd;

	for (unsigned i = 0; i < 2; i++) {
		port = free_port(&held[i]);
		snprintf(fwd[i], sizeof(fwd[i]), "tcp:127.0.0.1:%u-:%u", port, 22 + i);
	}
	close(held[0]);
	close(held[1]);
	net = open_ok(forwards);
	check_dhcp(net);
	fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	addr.sin_port = htons((uint16_t)port);
	connect(fd, (struct sockaddr *)&addr, sizeof(addr));
	assert_true(receive_ip(net, 6, &f) >= 40);
	assert_int_equal(f.body[20 + 13], 2);
	assert_int_equal(f.body[22] << 8 | f.body[23], 23);
	close(fd);
	net_backend_free(net);
	assert_no_children();
}

static void expect_failure(const struct net_user_config *config, int code, const char *part)
{
	struct error err = ERROR_INIT;
	struct net_backend *net;

	assert_int_equal(net_user_open(loop, config, &net, &err), code);
	if (!strstr(err.text, part))
		fail_msg("\"%s\" does not say \"%s\"", err.text, part);
	assert_no_children();
}

static void test_port_in_use(void **state)
{
	char fwd[64];
	const char *forwards[] = {fwd, NULL};
	struct net_user_config config = {.hostfwd = forwards};
	char want[64];
	int held;
	unsigned port = free_port(&held);

	snprintf(fwd, sizeof(fwd), "tcp:127.0.0.1:%u-:22", port);
	snprintf(want, sizeof(want), "127.0.0.1/%u:22", port);
	expect_failure(&config, -EIO, want);
	close(held);
}

static void test_program_missing(void **state)
{
	struct net_user_config config = {.program = "/nonexistent/passt"};

	expect_failure(&config, -ENOENT, "install the package passt");
	config.program = "/etc/passwd";
	expect_failure(&config, -EACCES, "/etc/passwd cannot be run");
}

static void test_program_that_fails(void **state)
{
	struct net_user_config config = {.program = "false"};

	expect_failure(&config, -EIO, "ended with status 1");
}

static void test_deferred_failure(void **state)
{
	struct net_user_config config = {.program = "false", .defer = true};
	struct error err = ERROR_INIT;
	struct net_backend *net;

	assert_int_equal(net_user_open(loop, &config, &net, &err), 0);
	assert_int_equal(net_backend_wait(net, &err), -EIO);
	assert_non_null(strstr(err.text, "ended with status 1"));
	net_backend_free(net);
	assert_no_children();
}

static void test_its_death_is_an_event(void **state)
{
	struct net_backend *net = open_ok(NULL);
	struct net_user_like {
		struct net_stream stream;
		struct passt passt;
	} *user = container_of(net, struct net_user_like, stream.net);

	link_down = false;
	kill(user->passt.pid, SIGKILL);
	while (!link_down || user->passt.pid > 0)
		loop_run_once(loop, 10000);
	assert_no_children();
	net_backend_free(net);
}

static void test_forward_syntax(void **state)
{
	static const struct {
		const char *text, *spec;
		bool udp;
	} good[] = {
		{"tcp:127.0.0.1:2222-:22", "127.0.0.1/2222:22", false},
		{"tcp::2222-:22", "2222:22", false},
		{"udp::5353-10.0.2.15:53", "5353:53", true},
		{"tcp:[::1]:2222-:22", "::1/2222:22", false},
	};
	static const char *const bad[] = {
		"",
		"tcp",
		"tcp:",
		"tcp:127.0.0.1:2222",
		"tcp:127.0.0.1:2222-22",
		"icmp::1-:1",
		"tcp:localhost:2222-:22",
		"tcp:::1:2222-:22",
		"tcp:[::1:2222-:22",
		"tcp:127.0.0.1:0-:22",
		"tcp:127.0.0.1:65536-:22",
		"tcp:127.0.0.1:2222-:",
		"tcp:127.0.0.1:22x-:22",
		"tcp:127.0.0.1:2222-10.0.2.16:22",
		"tcp:127.0.0.1 --pcap /etc/x:2222-:22",
		"tcp:127.0.0.1:2222-:22,all",
	};
	struct passt_forward fwd;

	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		struct error err = ERROR_INIT;

		if (passt_forward_parse(good[i].text, &fwd, &err) < 0)
			fail_msg("%s", err.text);
		assert_string_equal(fwd.spec, good[i].spec);
		assert_int_equal(fwd.udp, good[i].udp);
	}
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct error err = ERROR_INIT;

		if (passt_forward_parse(bad[i], &fwd, &err) != -EINVAL)
			fail_msg("\"%s\" was accepted", bad[i]);
		assert_non_null(strstr(err.text, "hostfwd="));
	}
}

static bool passt_works(void)
{
	struct net_user_config config = {0};
	struct error err = ERROR_INIT;
	struct net_backend *net;

	if (net_user_open(loop, &config, &net, &err) < 0) {
		printf("tests with passt skipped: %s\n", err.text);
		return false;
	}
	net_backend_free(net);
	return true;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_forward_syntax),
		cmocka_unit_test(test_program_missing),
		cmocka_unit_test(test_program_that_fails),
		cmocka_unit_test(test_deferred_failure),
	};
	const struct CMUnitTest with_passt[] = {
		cmocka_unit_test(test_serves_and_ends),
		cmocka_unit_test(test_without_any_route),
		cmocka_unit_test(test_forwards),
		cmocka_unit_test(test_port_in_use),
		cmocka_unit_test(test_its_death_is_an_event),
	};
	int r;

	if (loop_new(&loop) < 0)
		return 1;
	r = cmocka_run_group_tests(tests, NULL, NULL);
	if (r == 0)
		r = passt_works() ? cmocka_run_group_tests(with_passt, NULL, NULL) : 77;
	loop_free(loop);
	return r;
}
