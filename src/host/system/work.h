/*
 * Threads for what blocks: files that are made durable, folders on slow disks. A piece of work runs on one of them and is done on the loop; pieces run in
 * the order of their submission, some at once.
 */
#pragma once

#include "base/loop.h"

struct work_pool;

struct work {
	void (*run)(struct work *work);  /* on a thread of the pool */
	void (*done)(struct work *work); /* on the loop, afterwards */
	/* private */
	struct work_pool *pool;
	struct work *next;
	struct loop_msg msg;
};

/* Threads are started as they are needed, at most max_threads. */
int work_pool_new(struct loop *loop, unsigned max_threads, struct work_pool **ret);
/* Loop's thread. The work's memory is the caller's until done. */
void work_submit(struct work_pool *pool, struct work *work);
/* Waits for what runs; what has not begun is forgotten, and nothing is done afterwards. Loop's thread, when it runs no more. */
void work_pool_free(struct work_pool *pool);
