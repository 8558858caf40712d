/*
 * libvirt's framing: a length that counts itself, a header of six words, a payload; all big-endian (RFC 4506). Here a message is taken
 * apart and put together as bytes; who it is from and what it means is for client.c and dispatch.c.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RPC_PROGRAM_REMOTE    0x20008086u
#define RPC_PROGRAM_QEMU      0x20008087u
#define RPC_PROGRAM_KEEPALIVE 0x6b656570u
#define RPC_VERSION           1

#define RPC_LENGTH_BYTES 4
#define RPC_HEADER_BYTES 24
#define RPC_FRAME_MIN    (RPC_LENGTH_BYTES + RPC_HEADER_BYTES)
#define RPC_FRAME_MAX    (32u << 20)
#define RPC_STREAM_MAX   262120u /* payload of one stream packet */

enum rpc_type {
	RPC_CALL = 0,
	RPC_REPLY = 1,
	RPC_MESSAGE = 2,
	RPC_STREAM = 3,
	RPC_CALL_WITH_FDS = 4,
	RPC_REPLY_WITH_FDS = 5,
	RPC_STREAM_HOLE = 6,
};

enum rpc_status {
	RPC_OK = 0,
	RPC_ERROR = 1,
	RPC_CONTINUE = 2,
};

struct rpc_header {
	uint32_t program;
	uint32_t version;
	int32_t procedure;
	uint32_t type;
	uint32_t serial;
	uint32_t status;
};

/* buf has RPC_HEADER_BYTES. */
void rpc_header_get(const uint8_t *buf, struct rpc_header *ret);
/* buf has RPC_FRAME_MIN bytes; payload_bytes is what follows them. */
void rpc_frame_put(uint8_t *buf, const struct rpc_header *header, size_t payload_bytes);

/* Collects one frame from bytes as they come. Memory grows with what has arrived, not with what is announced. */
struct rpc_reader {
	uint8_t *buf;
	size_t have, room;
};

/* Where the next bytes go and how many there may be at most: never more than the frame lacks. -EPROTO: the announced length cannot be, or is
 * above max_frame; -ENOMEM. */
int rpc_reader_space(struct rpc_reader *reader, size_t max_frame, void **ret_at, size_t *ret_len);
/* len bytes have been put there. True when the frame is complete. */
bool rpc_reader_took(struct rpc_reader *reader, size_t len);
/* The complete frame's header and payload; the payload is borrowed until the next one begins. */
void rpc_reader_frame(const struct rpc_reader *reader, struct rpc_header *ret,
		      const uint8_t **ret_payload, size_t *ret_len);
/* Ready for the next frame; what a large one needed is given back. */
void rpc_reader_next(struct rpc_reader *reader);
void rpc_reader_fini(struct rpc_reader *reader);
