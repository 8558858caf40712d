/*
 * A vCPU's loop, and how to get it out.
 *
 * The kick cannot be lost. The kicker sets `kicked`, then run->immediate_exit, then signals the thread if it is inside
 * kvm_vcpu_run(). The loop announces its thread, clears immediate_exit, then takes `kicked`, then enters KVM. Whatever the
 * interleaving, either the loop takes `kicked`; or KVM sees immediate_exit and does not enter; or the signal is
 * pending or arrives once KVM has looked, and KVM_RUN returns EINTR. The handler itself has nothing to do.
 *
 * The signal is a classic one, not a real-time one: those queue, and fail with EAGAIN when RLIMIT_SIGPENDING is used up.
 */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vm/accel/kvm/kvm_int.h"

#define KICK_SIGNAL SIGUSR1

static void kick_handler(int sig)
{
	(void)sig;
}

int kvm_kick_init(void)
{
	/* Restarting leaves the other system calls of a vCPU's thread alone; KVM_RUN returns EINTR all the same. */
	struct sigaction action = {.sa_handler = kick_handler, .sa_flags = SA_RESTART};

	sigemptyset(&action.sa_mask);
	return sigaction(KICK_SIGNAL, &action, NULL) < 0 ? -errno : 0;
}

static void set_immediate_exit(struct kvm_vcpu *vcpu, uint8_t value)
{
	__atomic_store_n(&vcpu->run->immediate_exit, value, __ATOMIC_SEQ_CST);
}

void kvm_vcpu_kick(struct accel_vcpu *base)
{
	struct kvm_vcpu *vcpu = kvm_vcpu_of(base);
	int saved = errno; /* we may be in a signal handler */
	pid_t tid;

	atomic_store(&vcpu->kicked, true);
	set_immediate_exit(vcpu, 1);
	tid = atomic_load(&vcpu->tid);
	/* A thread that has left meanwhile takes the signal harmlessly, and finds `kicked` when it comes back. */
	if (tid)
		syscall(SYS_tgkill, getpid(), tid, KICK_SIGNAL);
	errno = saved;
}

static void kvm_thread_prepare(struct kvm_vcpu *vcpu)
{
	sigset_t set;

	if (vcpu->thread_ready)
		return;
	sigemptyset(&set);
	sigaddset(&set, KICK_SIGNAL);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
	vcpu->thread_ready = true;
}

/* KVM_RUN itself failed: not the guest's doing, or the guest touched memory that the host cannot provide. */
static enum accel_exit run_failed(struct kvm_vcpu *vcpu, int code)
{
	if (code == EFAULT)
		snprintf(vcpu->base.error, sizeof(vcpu->base.error),
			 "vCPU %u: the host cannot provide a page of guest memory "
			 "(out of memory or huge pages, or the backing file was cut)",
			 vcpu->base.index);
	else
		snprintf(vcpu->base.error, sizeof(vcpu->base.error), "vCPU %u: KVM_RUN: %s",
			 vcpu->base.index, strerror(code));
	return ACCEL_EXIT_ERROR;
}

enum accel_exit kvm_vcpu_run(struct accel_vcpu *base)
{
	struct kvm_vcpu *vcpu = kvm_vcpu_of(base);
	enum accel_exit exit = ACCEL_EXIT_KICKED;

	kvm_thread_prepare(vcpu);
	atomic_store(&vcpu->tid, (pid_t)syscall(SYS_gettid));
	for (;;) {
		set_immediate_exit(vcpu, 0);
		if (atomic_exchange(&vcpu->kicked, false))
			break;
		if (ioctl(vcpu->fd, KVM_RUN, 0) < 0) {
			/* EAGAIN: a processor that waits for INIT or SIPI was woken. */
			if (errno == EINTR || errno == EAGAIN)
				continue;
			exit = run_failed(vcpu, errno);
			break;
		}
		if (!kvm_exit_handle(vcpu, &exit))
			break;
	}
	atomic_store(&vcpu->tid, 0);
	return exit;
}

/* KVM finishes an instruction that exited only on the next entry: enter with immediate_exit until nothing is left. */
int kvm_vcpu_settle(struct accel_vcpu *base)
{
	struct kvm_vcpu *vcpu = kvm_vcpu_of(base);
	enum accel_exit exit;

	kvm_thread_prepare(vcpu);
	for (;;) {
		set_immediate_exit(vcpu, 1);
		if (ioctl(vcpu->fd, KVM_RUN, 0) < 0)
			return errno == EINTR || errno == EAGAIN ? 0 : -errno;
		/* A string instruction may have had another element ready. */
		if (!kvm_exit_handle(vcpu, &exit))
			return -EIO;
	}
}
