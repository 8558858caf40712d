/*
 * Scoped clean-up. Declare and initialise in one statement; never mix with goto in one function.
 *
 *	_cleanup_close_ int fd = open(...);
 *	_cleanup_free_ char *text = strdup(...);
 *	return steal_fd(&fd);
 */
#pragma once

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define _cleanup_(f) __attribute__((cleanup(f)))

static inline void cleanup_free(void *p)
{
	void **pp = p;

	free(*pp);
}
static inline void cleanup_close(int *fd)
{
	if (*fd >= 0)
		close(*fd);
}
static inline void cleanup_fclose(FILE **f)
{
	if (*f)
		fclose(*f);
}
static inline void cleanup_unlock(pthread_mutex_t **m)
{
	if (*m)
		pthread_mutex_unlock(*m);
}

#define _cleanup_free_   _cleanup_(cleanup_free)
#define _cleanup_close_  _cleanup_(cleanup_close)
#define _cleanup_fclose_ _cleanup_(cleanup_fclose)

static inline int steal_fd(int *fd)
{
	int v = *fd;

	*fd = -1;
	return v;
}

#define steal_ptr(p)                                                                               \
	({                                                                                         \
		__typeof__(*(p)) _v = *(p);                                                        \
		*(p) = NULL;                                                                       \
		_v;                                                                                \
	})

static inline pthread_mutex_t *lock_take(pthread_mutex_t *m)
{
	pthread_mutex_lock(m);
	return m;
}

/* Holds a mutex to the end of the enclosing block: `LOCK_GUARD(&dev->lock);` */
#define LOCK_GUARD_NAME2(n) lock_guard_##n
#define LOCK_GUARD_NAME(n)  LOCK_GUARD_NAME2(n)
#define LOCK_GUARD(m)                                                                              \
	__attribute__((unused)) _cleanup_(cleanup_unlock) pthread_mutex_t *LOCK_GUARD_NAME(        \
		__COUNTER__) = lock_take(m)
