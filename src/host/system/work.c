#include "host/system/work.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

#include "base/bits.h"
#include "base/cleanup.h"

#define MAX_THREADS 16
#define STACK_BYTES (256 * KIB)

struct work_pool {
	struct loop *loop;
	unsigned max_threads;
	pthread_mutex_t lock;
	pthread_cond_t wake;
	struct work *head, **tail; /* [lock] */
	unsigned idle;             /* [lock] */
	bool ending;               /* [lock] */
	pthread_t threads[MAX_THREADS];
	unsigned n_threads; /* [loop] */
};

static void work_done(struct loop_msg *msg)
{
	struct work *work = container_of(msg, struct work, msg);

	work->done(work);
}

static struct work *pool_take_locked(struct work_pool *pool)
{
	struct work *work;

	pool->idle++;
	while (!pool->head && !pool->ending)
		pthread_cond_wait(&pool->wake, &pool->lock);
	pool->idle--;
	if (pool->ending)
		return NULL;
	work = pool->head;
	pool->head = work->next;
	if (!pool->head)
		pool->tail = &pool->head;
	return work;
}

static void *pool_thread(void *opaque)
{
	struct work_pool *pool = opaque;
	struct work *work;

	for (;;) {
		pthread_mutex_lock(&pool->lock);
		work = pool_take_locked(pool);
		pthread_mutex_unlock(&pool->lock);
		if (!work)
			return NULL;
		work->run(work);
		loop_post(pool->loop, &work->msg);
	}
}

int work_pool_new(struct loop *loop, unsigned max_threads, struct work_pool **ret)
{
	struct work_pool *pool = calloc(1, sizeof(*pool));

	if (!pool)
		return -ENOMEM;
	pool->loop = loop;
	pool->max_threads = MIN(max_threads, (unsigned)MAX_THREADS);
	pool->tail = &pool->head;
	pthread_mutex_init(&pool->lock, NULL);
	pthread_cond_init(&pool->wake, NULL);
	*ret = pool;
	return 0;
}

static void pool_add_thread(struct work_pool *pool)
{
	pthread_attr_t attr;
	sigset_t all, old;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_BYTES);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	if (pthread_create(&pool->threads[pool->n_threads], &attr, pool_thread, pool) == 0)
		pthread_setname_np(pool->threads[pool->n_threads++], "vireod-work");
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_attr_destroy(&attr);
}

void work_submit(struct work_pool *pool, struct work *work)
{
	bool enough;

	work->pool = pool;
	work->next = NULL;
	work->msg.fn = work_done;
	pthread_mutex_lock(&pool->lock);
	enough = pool->idle > 0 && !pool->head;
	*pool->tail = work;
	pool->tail = &work->next;
	pthread_cond_signal(&pool->wake);
	pthread_mutex_unlock(&pool->lock);
	if (!enough && pool->n_threads < pool->max_threads)
		pool_add_thread(pool);
	/* Without any thread there is only this one: better late than never. */
	if (pool->n_threads == 0) {
		LOCK_GUARD(&pool->lock);
		pool->head = NULL;
		pool->tail = &pool->head;
		work->run(work);
		loop_post(pool->loop, &work->msg);
	}
}

void work_pool_free(struct work_pool *pool)
{
	if (!pool)
		return;
	pthread_mutex_lock(&pool->lock);
	pool->ending = true;
	pthread_cond_broadcast(&pool->wake);
	pthread_mutex_unlock(&pool->lock);
	for (unsigned i = 0; i < pool->n_threads; i++)
		pthread_join(pool->threads[i], NULL);
	pthread_mutex_destroy(&pool->lock);
	pthread_cond_destroy(&pool->wake);
	free(pool);
}
