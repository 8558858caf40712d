/*
 * vCPU threads. Each waits on run_cond while it may not run, and counts itself as parked meanwhile; vcpus_stop() kicks
 * everyone and waits until all are parked. A kick is never lost (accel.h), so one is enough.
 *
 * A held vCPU (reset, power-off, failure) is parked although the others run; a new generation lets it go on.
 */
#include "vm/main/vcpus.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/cleanup.h"

struct vcpu {
	struct vcpus *all;
	struct accel_vcpu *accel;
	unsigned index;
	pthread_t thread;
	bool started;             /* thread exists */
	int thread_id;            /* [lock] 0 until the thread has begun */
	bool parked;              /* [lock] */
	bool held;                /* [vCPU thread] waits for another generation than held_since */
	unsigned long held_since; /* [vCPU thread] */
};

struct vcpus {
	struct vcpus_events events;
	pthread_mutex_t lock;
	pthread_cond_t run_cond;    /* running, generation or quit changed */
	pthread_cond_t parked_cond; /* n_parked or a thread_id changed */
	bool running, quit;         /* [lock] */
	unsigned long generation;   /* [lock] counts vcpus_run() */
	unsigned n_parked;          /* [lock] */
	unsigned n;
	struct vcpu vcpu[];
};

/* Which vCPU the calling thread is; set once by vcpu_main(). */
static _Thread_local struct vcpu *vcpu_current;

static void vcpu_hold(struct vcpu *vcpu)
{
	LOCK_GUARD(&vcpu->all->lock);
	vcpu->held = true;
	vcpu->held_since = vcpu->all->generation;
}

void vcpus_hold_current(void)
{
	struct vcpu *vcpu = vcpu_current;

	if (!vcpu)
		return;
	vcpu_hold(vcpu);
	accel_vcpu_kick(vcpu->accel);
}

static bool vcpu_may_run_locked(const struct vcpu *vcpu)
{
	const struct vcpus *all = vcpu->all;

	return all->running && !(vcpu->held && vcpu->held_since == all->generation);
}

/* Parks until the vCPU may run; false when the thread is to end. */
static bool vcpu_wait(struct vcpu *vcpu)
{
	struct vcpus *all = vcpu->all;

	LOCK_GUARD(&all->lock);
	while (!all->quit && !vcpu_may_run_locked(vcpu)) {
		if (!vcpu->parked) {
			vcpu->parked = true;
			all->n_parked++;
			pthread_cond_broadcast(&all->parked_cond);
		}
		pthread_cond_wait(&all->run_cond, &all->lock);
	}
	if (vcpu->parked) {
		vcpu->parked = false;
		all->n_parked--;
	}
	vcpu->held = false;
	return !all->quit;
}

static void *vcpu_main(void *opaque)
{
	struct vcpu *vcpu = opaque;
	struct vcpus *all = vcpu->all;
	char name[16];

	vcpu_current = vcpu;
	/* Its own name is a system call; another thread's goes through /proc. */
	snprintf(name, sizeof(name), "vcpu%u", vcpu->index);
	pthread_setname_np(pthread_self(), name);
	pthread_mutex_lock(&all->lock);
	vcpu->thread_id = gettid();
	pthread_cond_broadcast(&all->parked_cond);
	pthread_mutex_unlock(&all->lock);

	while (vcpu_wait(vcpu)) {
		enum accel_exit why = accel_vcpu_run(vcpu->accel);

		/* Only a settled vCPU may park: half an access must not be what a stop leaves behind. */
		accel_vcpu_settle(vcpu->accel);
		switch (why) {
		case ACCEL_EXIT_KICKED:
			break;
		case ACCEL_EXIT_RESET:
			vcpu_hold(vcpu);
			all->events.reset(all->events.opaque, vcpu->index);
			break;
		case ACCEL_EXIT_HALT:
			vcpu_hold(vcpu);
			break;
		case ACCEL_EXIT_ERROR:
			vcpu_hold(vcpu);
			all->events.failed(all->events.opaque, vcpu->index,
					   accel_vcpu_error(vcpu->accel));
			break;
		}
	}
	return NULL;
}

static int vcpu_start(struct vcpu *vcpu, struct error *err)
{
	sigset_t all;
	sigset_t old;
	int r;

	/* Signals are the main thread's business; the accelerator unblocks its own on the vCPU's thread. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	r = -pthread_create(&vcpu->thread, NULL, vcpu_main, vcpu);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (r < 0)
		return error_set_errno(err, r, "cannot start the thread of vCPU %u", vcpu->index);
	vcpu->started = true;
	return 0;
}

int vcpus_new(struct accel *accel, unsigned n, const struct vcpus_events *events,
	      struct vcpus **ret, struct error *err)
{
	struct vcpus *vcpus = calloc(1, sizeof(*vcpus) + n * sizeof(vcpus->vcpu[0]));
	int r = 0;

	if (!vcpus)
		return error_set(err, -ENOMEM, "no memory for %u vCPUs", n);
	vcpus->events = *events;
	vcpus->n = n;
	pthread_mutex_init(&vcpus->lock, NULL);
	pthread_cond_init(&vcpus->run_cond, NULL);
	pthread_cond_init(&vcpus->parked_cond, NULL);
	for (unsigned i = 0; i < n && r >= 0; i++) {
		vcpus->vcpu[i].all = vcpus;
		vcpus->vcpu[i].index = i;
		r = accel_vcpu_new(accel, i, &vcpus->vcpu[i].accel, err);
	}
	for (unsigned i = 0; i < n && r >= 0; i++)
		r = vcpu_start(&vcpus->vcpu[i], err);
	if (r < 0) {
		vcpus_free(vcpus);
		return r;
	}
	*ret = vcpus;
	return 0;
}

void vcpus_free(struct vcpus *vcpus)
{
	if (!vcpus)
		return;
	pthread_mutex_lock(&vcpus->lock);
	vcpus->quit = true;
	pthread_cond_broadcast(&vcpus->run_cond);
	pthread_mutex_unlock(&vcpus->lock);
	for (unsigned i = 0; i < vcpus->n; i++) {
		if (vcpus->vcpu[i].started) {
			accel_vcpu_kick(vcpus->vcpu[i].accel);
			pthread_join(vcpus->vcpu[i].thread, NULL);
		}
		accel_vcpu_free(vcpus->vcpu[i].accel);
	}
	pthread_cond_destroy(&vcpus->run_cond);
	pthread_cond_destroy(&vcpus->parked_cond);
	pthread_mutex_destroy(&vcpus->lock);
	free(vcpus);
}

void vcpus_run(struct vcpus *vcpus)
{
	LOCK_GUARD(&vcpus->lock);
	vcpus->running = true;
	vcpus->generation++;
	pthread_cond_broadcast(&vcpus->run_cond);
}

void vcpus_stop(struct vcpus *vcpus)
{
	pthread_mutex_lock(&vcpus->lock);
	vcpus->running = false;
	pthread_mutex_unlock(&vcpus->lock);
	for (unsigned i = 0; i < vcpus->n; i++)
		accel_vcpu_kick(vcpus->vcpu[i].accel);
	pthread_mutex_lock(&vcpus->lock);
	while (vcpus->n_parked < vcpus->n)
		pthread_cond_wait(&vcpus->parked_cond, &vcpus->lock);
	pthread_mutex_unlock(&vcpus->lock);
}

struct accel_vcpu *vcpus_get(struct vcpus *vcpus, unsigned index)
{
	return vcpus->vcpu[index].accel;
}

int vcpus_thread_id(const struct vcpus *vcpus, unsigned index)
{
	struct vcpus *all = vcpus->vcpu[index].all;

	LOCK_GUARD(&all->lock);
	while (vcpus->vcpu[index].thread_id == 0)
		pthread_cond_wait(&all->parked_cond, &all->lock);
	return vcpus->vcpu[index].thread_id;
}
