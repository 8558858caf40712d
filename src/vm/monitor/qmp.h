/*
 * QMP, the machine protocol that speaks to a running machine: JSON commands and events on a Unix socket. Command and event
 * names, arguments and results are those of the QEMU Machine Protocol specification where it has them, so existing
 * clients work; several clients may be connected at once.
 *
 * Thread: the main loop. The monitor knows nothing of the machine but the operations below.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/json.h"
#include "base/loop.h"

#define QMP_MAX_CLIENTS 16
#define QMP_MAX_MESSAGE (256 * 1024) /* bytes of one command */
#define QMP_MAX_PENDING                                                                            \
	(1024 * 1024) /* bytes that a client may leave unread before it is dropped */

enum qmp_run_state {
	QMP_PRELAUNCH,
	QMP_RUNNING,
	QMP_PAUSED,
	QMP_SHUTDOWN,
	QMP_GUEST_PANICKED,
};

struct qmp_cpu {
	int thread_id; /* kernel's thread id */
	unsigned socket, core, thread;
};

struct qmp_block {
	const char *device; /* "disk0" */
	const char *file;
	const char *format;
	const char *engine;
	uint64_t size_bytes;
	bool readonly;
	bool writeback; /* the guest sees a write cache */
	bool no_flush, direct;
};

struct qmp_char {
	const char *label; /* "serial0" */
	const char *type;  /* "pty" */
	const char *path;  /* of a pty, socket or file; "" otherwise */
};

/* The machine, as QMP sees it; all on the main loop. Those that can fail fill err. */
struct qmp_target {
	const char *name;  /* borrowed, may be NULL */
	const char *accel; /* "kvm" */
	uint8_t uuid[16];
	void *opaque;
	enum qmp_run_state (*run_state)(void *opaque);
	int (*stop)(void *opaque, struct error *err);
	int (*cont)(void *opaque, struct error *err);
	int (*reset)(void *opaque, struct error *err);
	int (*powerdown)(void *opaque, struct error *err);
	int (*nmi)(void *opaque, struct error *err);
	void (*quit)(void *opaque);
	unsigned (*n_cpus)(void *opaque);
	void (*cpu)(void *opaque, unsigned index, struct qmp_cpu *ret);
	unsigned (*n_blocks)(void *opaque);
	void (*block)(void *opaque, unsigned index, struct qmp_block *ret);
	unsigned (*n_chars)(void *opaque);
	void (*chr)(void *opaque, unsigned index, struct qmp_char *ret);
	/* -ENODEV: no balloon, or the guest does not drive it. */
	int (*balloon_get)(void *opaque, uint64_t *ret_bytes, struct error *err);
	int (*balloon_set)(void *opaque, uint64_t bytes, struct error *err);
};

struct qmp;

/* Listens at path; the target is borrowed. err: the path is in use, is no socket, or cannot be made, and what to do. */
int qmp_new(struct loop *loop, const char *path, const struct qmp_target *target, struct qmp **ret,
	    struct error *err);
/* Sends what is pending as far as sockets take it, disconnects clients and removes the socket file. */
void qmp_free(struct qmp *qmp);

/* Sends an event to every client that has negotiated; takes over `data` (NULL: none). */
void qmp_event(struct qmp *qmp, const char *name, json_t *data);
