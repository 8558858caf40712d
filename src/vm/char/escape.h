/*
 * The escape key of an interactive terminal: takes commands for the program out of what is typed for the guest.
 * Pure; the caller's thread.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct escape {
	uint8_t key; /* 0: none, everything passes */
	bool armed;  /* the key was seen, a command follows */
	/* A command key, never the escape key itself. */
	void (*command)(void *opaque, char key);
	void *opaque;
};

/* Filters data in place; returns how many bytes remain for the guest. Commands are called as they are met. */
size_t escape_filter(struct escape *esc, uint8_t *data, size_t len);

/* "Ctrl-A" for 1; other bytes as they print. buf of 16 bytes suffices. */
void escape_key_name(uint8_t key, char *buf, size_t size);
