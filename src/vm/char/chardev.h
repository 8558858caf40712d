/*
 * Character backends: where the bytes of a serial port or console go. A table of operations; stdio, pty, unix socket, file,
 * and memory for tests.
 *
 * Thread model: one loop; write may be called from any thread that holds the device's lock, never blocks, and
 * keeps what does not fit in a bounded buffer (then drops, counted).
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/loop.h"

struct chardev;

struct chardev_events {
	/* Bytes arrived; on the backend's loop. Takes at most what can_receive said. */
	void (*receive)(void *opaque, const uint8_t *data, size_t len);
	/* How many bytes the device can take now. */
	size_t (*can_receive)(void *opaque);
	/* A client connected (unix), or the other end of a pty opened. Optional. */
	void (*opened)(void *opaque, bool open);
	/* The terminal's size changed. Optional. */
	void (*resized)(void *opaque, uint16_t columns, uint16_t rows);
	/* Room again after chardev_write returned less than len. Optional. */
	void (*writable)(void *opaque);
	void *opaque;
};

struct chardev_ops {
	const char *type;
	/* Returns the bytes taken (0 to len). */
	size_t (*write)(struct chardev *chr, const uint8_t *data, size_t len);
	/* The device can take input again: reading goes on. Any thread. */
	void (*accept_input)(struct chardev *chr);
	/* Optional. Events were set: tell soon, on the loop, what holds already (closed, the terminal's size). */
	void (*attached)(struct chardev *chr);
	void (*free)(struct chardev *chr);
};

struct chardev {
	const struct chardev_ops *ops;
	struct chardev_events events; /* set with chardev_attach */
	char path[128];               /* of a pty or socket, for people and QMP; "" otherwise */
};

/* Connects the device; before the loop runs or on the loop. Reading starts. NULL disconnects it again: no event comes
 * afterwards. A backend that can be closed (unix, pty) reports `opened` soon after; the others are open always. */
void chardev_attach(struct chardev *chr, const struct chardev_events *events);
size_t chardev_write(struct chardev *chr, const uint8_t *data, size_t len);
void chardev_accept_input(struct chardev *chr);
void chardev_free(struct chardev *chr);

struct chardev_stdio_config {
	/* On a terminal: this byte, then a command key; pressed twice it is sent once. 0: none. Custom is Ctrl-A (1). */
	uint8_t escape;
	/* Called for escape x (quit) and every other key but h (help, answered here); on the loop. Optional. */
	void (*command)(void *opaque, char key);
	void *opaque;
	/* The program's own keys, for the help: lines of "key  meaning", each ended by "\r\n". NULL: none. */
	const char *help;
};
/* stdin and stdout, once in a process. Ignores SIGPIPE. A terminal is put into raw mode and restored on every way out (chardev_free, exit, fatal signals). */
int chardev_stdio_open(struct loop *loop, const struct chardev_stdio_config *config,
		       struct chardev **ret, struct error *err);
/* A new pseudo-terminal; chr->path is its other end. Output is dropped while nobody has that open. */
int chardev_pty_open(struct loop *loop, struct chardev **ret, struct error *err);
/* A listening socket, removed again by chardev_free. One client at a time, others wait; output is dropped meanwhile. */
int chardev_unix_open(struct loop *loop, const char *path, struct chardev **ret, struct error *err);
/* Appends to a file, which is created when absent. No input. */
int chardev_file_open(struct loop *loop, const char *path, struct chardev **ret, struct error *err);
int chardev_null_open(struct chardev **ret);
/* For tests: what was written (64 KiB at most, the rest is refused) can be taken, and input injected. What the device does
 * not accept waits for the next inject, which may be of 0 bytes. */
int chardev_memory_open(struct chardev **ret);
size_t chardev_memory_take(struct chardev *chr, uint8_t *buf, size_t len);
void chardev_memory_inject(struct chardev *chr, const uint8_t *data, size_t len);
