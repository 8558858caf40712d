/*
 * The terminal that this program was started on: raw mode, and its restoration on every way out - terminal_guard_stop(),
 * exit(), a fatal signal (restored in the handler, which then lets the signal do what it would have done), a stop
 * (SIGTSTP) - and raw mode again when the job comes back to the foreground. (POSIX.1-2017, chapter 11.)
 *
 * There is one such terminal in a process, and signal handlers have no argument: its state is file-scope. A signal that
 * is ignored stays ignored; one that the program blocks and reads from a signalfd is not noticed here.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* Installs the handlers and the exit hook. notify_fd, an eventfd, is signalled after the terminal's size changed and after
 * the job was continued. -EBUSY when already started. */
int terminal_guard_start(int notify_fd);
/* Puts everything back, handlers included. */
void terminal_guard_stop(void);

/* Guarded: raw mode for the terminal fd, 8 bits, no echo, no signals, no output processing. */
int terminal_set_raw(int fd);
/* Guarded: O_NONBLOCK on a description that other programs share; for two descriptors at most. */
int terminal_share_nonblock(int fd);

/* May this process group read the terminal? True also for a terminal that does not control it. */
bool terminal_is_foreground(int fd);
/* False when the size is not known. */
bool terminal_size(int fd, uint16_t *ret_columns, uint16_t *ret_rows);
