/*
 * passt as a child process (passt.top; the options are those of its manual of 2023-03-09 and later). Private to vm/net.
 *
 * The child gets one end of a socket pair and ends when the other end is closed. It confines itself. What it says before it
 * works is kept for the error message; afterwards it goes to our log.
 */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

#include "base/error.h"
#include "base/loop.h"

#define PASST_MAX_FORWARDS 64

/* One forward in passt's words: "-t" or "-u" and "127.0.0.1/2222:22". */
struct passt_forward {
	bool udp;
	char spec[96];
};

/* "tcp|udp:[address]:port-[guest address]:port". -EINVAL with a message that quotes it. */
int passt_forward_parse(const char *text, struct passt_forward *ret, struct error *err);

struct passt {
	struct loop *loop;
	pid_t pid;
	struct loop_fd exit_src; /* a pidfd, readable once the child has ended; -1: no child */
	struct loop_fd text_src; /* its standard error; -1: none */
	char text[1024];         /* the last that it said */
	size_t text_len;
	bool quiet;                         /* we are ending it ourselves */
	void (*ended)(struct passt *passt); /* the child is gone; may be NULL */
};

/* Starts `program` (NULL: passt) with `fd` as its connected socket; fd stays the caller's. */
int passt_start(struct passt *passt, struct loop *loop, const char *program, int fd,
		const struct passt_forward *forwards, size_t n_forwards, struct error *err);
/* The child has started to serve: from now on its text goes to the log and its end is an event. */
int passt_watch(struct passt *passt);
/* It did not get so far: collects what it says until it ends, and makes the message of it. */
int passt_explain(struct passt *passt, struct error *err);
/* Call after our end of the socket is closed: waits for the child, kills it when it lingers, reaps it. NULL-safe members:
 * harmless on a passt that was never started but zeroed with fds at -1. */
void passt_stop(struct passt *passt);
