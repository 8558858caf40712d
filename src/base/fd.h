/*
 * Descriptors: whole reads and writes, flags, eventfds, passing over Unix sockets.
 * All functions return 0 or a negative errno unless they say otherwise.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Reads up to len bytes, retrying on EINTR and short reads; the count is less than len at end of file only. */
ssize_t fd_read_full(int fd, void *buf, size_t len);
ssize_t fd_pread_full(int fd, void *buf, size_t len, off_t off);
int fd_write_full(int fd, const void *buf, size_t len);
int fd_pwrite_full(int fd, const void *buf, size_t len, off_t off);

int fd_set_nonblock(int fd, bool on);
int fd_set_cloexec(int fd, bool on);

/* A non-blocking, close-on-exec eventfd, or a negative errno. */
int eventfd_new(void);
void eventfd_signal(int fd);
/* Takes the counter to zero; returns whether it had been signalled. */
bool eventfd_clear(int fd);

/* A listening Unix stream socket (close-on-exec). -EADDRINUSE when the path exists and somebody answers;
 * a stale socket file is replaced; a file that is no socket is never removed (-EEXIST). */
int unix_listen(const char *path);
int unix_connect(const char *path);
