/*
 * Worker threads for what the kernel does not do asynchronously, and for formats' metadata. Work is taken in the order of its
 * arrival. A thread is started when work finds all others busy, and stays until the pool is freed.
 */
#include "image/image_impl.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "base/str.h"

#define POOL_MAX_THREADS 16
#define POOL_STACK_BYTES (256u * 1024) /* touched as used */

struct image_pool {
	char name[16];
	unsigned max_threads;
	pthread_mutex_t lock;
	pthread_cond_t more;
	/* [lock] */
	struct image_work *head, **tail;
	unsigned n_queued, n_idle, n_threads;
	bool quit;
	pthread_t threads[POOL_MAX_THREADS];
};

static struct image_work *pool_take(struct image_pool *pool)
{
	struct image_work *work;

	LOCK_GUARD(&pool->lock);
	pool->n_idle++;
	while (!pool->head && !pool->quit)
		pthread_cond_wait(&pool->more, &pool->lock);
	pool->n_idle--;
	work = pool->head;
	if (work) {
		pool->head = work->next;
		if (!pool->head)
			pool->tail = &pool->head;
		pool->n_queued--;
	}
	return work;
}

static void *pool_main(void *opaque)
{
	struct image_pool *pool = opaque;
	struct image_work *work;

	while ((work = pool_take(pool))) {
		work->run(work);
		image_channel_post(work->channel, work);
	}
	return NULL;
}

/* Lock held. Signals stay the main thread's business. */
static void pool_grow_locked(struct image_pool *pool)
{
	pthread_attr_t attr;
	sigset_t all;
	sigset_t old;
	pthread_t thread;

	sigfillset(&all);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, POOL_STACK_BYTES);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	if (pthread_create(&thread, &attr, pool_main, pool) == 0) {
		pthread_setname_np(thread, pool->name);
		pool->threads[pool->n_threads++] = thread;
	}
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_attr_destroy(&attr);
}

/* False when there is no thread that could ever take it. */
static bool pool_enqueue(struct image_pool *pool, struct image_work *work)
{
	LOCK_GUARD(&pool->lock);
	if (pool->n_queued >= pool->n_idle && pool->n_threads < pool->max_threads)
		pool_grow_locked(pool);
	if (pool->n_threads == 0)
		return false;
	work->next = NULL;
	*pool->tail = work;
	pool->tail = &work->next;
	pool->n_queued++;
	pthread_cond_signal(&pool->more);
	return true;
}

void image_pool_submit(struct image_pool *pool, struct image_work *work)
{
	if (pool_enqueue(pool, work))
		return;
	work->run(work);
	image_channel_post(work->channel, work);
}

int image_pool_new(const char *name, unsigned max_threads, struct image_pool **ret)
{
	struct image_pool *pool;

	if (max_threads < 1 || max_threads > POOL_MAX_THREADS)
		return -EINVAL;
	pool = calloc(1, sizeof(*pool));
	if (!pool)
		return -ENOMEM;
	str_copy(pool->name, sizeof(pool->name), name);
	pool->max_threads = max_threads;
	pool->tail = &pool->head;
	pthread_mutex_init(&pool->lock, NULL);
	pthread_cond_init(&pool->more, NULL);
	*ret = pool;
	return 0;
}

void image_pool_free(struct image_pool *pool)
{
	if (!pool)
		return;
	pthread_mutex_lock(&pool->lock);
	pool->quit = true;
	pthread_cond_broadcast(&pool->more);
	pthread_mutex_unlock(&pool->lock);
	for (unsigned i = 0; i < pool->n_threads; i++)
		pthread_join(pool->threads[i], NULL);
	pthread_cond_destroy(&pool->more);
	pthread_mutex_destroy(&pool->lock);
	free(pool);
}
