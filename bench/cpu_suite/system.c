/* What the kernel does for programs: calls, signals, pipes, processes, faults; and code that changes itself. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "suite.h"

extern char **environ;

static void run_null(long n)
{
	for (long i = 0; i < n; i++)
		syscall(SYS_getppid);
}

static void run_stat(long n)
{
	struct stat st;

	for (long i = 0; i < n; i++)
		if (stat("/proc/self", &st) != 0)
			wrong("stat");
}

static volatile sig_atomic_t caught;

static void handler(int number)
{
	caught += number;
}

static void run_signal(long n)
{
	signal(SIGUSR1, handler);
	caught = 0;
	for (long i = 0; i < n; i++)
		raise(SIGUSR1);
	if (caught != (sig_atomic_t)(n * SIGUSR1))
		wrong("signal");
}

static void run_pipe(long n) /* there and back between two processes on one processor */
{
	int there[2], back[2];
	char byte = 1;
	pid_t child;

	if (pipe(there) != 0 || pipe(back) != 0)
		wrong("pipe");
	child = fork();
	if (child == 0) {
		for (long i = 0; i < n; i++)
			if (read(there[0], &byte, 1) != 1 || write(back[1], &byte, 1) != 1)
				_exit(1);
		_exit(0);
	}
	for (long i = 0; i < n; i++)
		if (write(there[1], &byte, 1) != 1 || read(back[0], &byte, 1) != 1)
			wrong("pipe");
	waitpid(child, NULL, 0);
	for (int i = 0; i < 2; i++) {
		close(there[i]);
		close(back[i]);
	}
}

static void *nothing(void *arg)
{
	return arg;
}

static void run_thread(long n)
{
	for (long i = 0; i < n; i++) {
		pthread_t thread;

		if (pthread_create(&thread, NULL, nothing, NULL) != 0)
			wrong("thread");
		pthread_join(thread, NULL);
	}
}

static void run_fork(long n)
{
	for (long i = 0; i < n; i++) {
		pid_t child = fork();

		if (child == 0)
			_exit(0);
		waitpid(child, NULL, 0);
	}
}

/* argv[0] is looked for as it stands; its output is thrown away. Ends when it does. */
static void command(char *const *argv)
{
	posix_spawn_file_actions_t actions;
	pid_t child;
	int status;

	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
	if (posix_spawn(&child, argv[0], &actions, NULL, argv, environ) != 0)
		wrong(argv[0]);
	waitpid(child, &status, 0);
	posix_spawn_file_actions_destroy(&actions);
	if (status != 0)
		wrong(argv[0]);
}

static char *busybox(void)
{
	char *path = getenv("BUSYBOX");

	return path ? path : "/bin/busybox";
}

static void run_exec_static(long n)
{
	for (long i = 0; i < n; i++)
		command((char *[]){busybox(), "true", NULL});
}

static void run_exec_dynamic_cold(long n)
{
	(void)n;
	command((char *[]){getenv("DYNAMIC") ? getenv("DYNAMIC") : "/dyn/xz", "-V", NULL});
}

static void run_exec_dynamic(long n)
{
	for (long i = 0; i < n; i++)
		run_exec_dynamic_cold(1);
}

static void run_shell(long n)
{
	for (long i = 0; i < n; i++)
		command((char *[]){
			busybox(), "sh", "-c",
			"i=0; s=0; while [ $i -lt 2000 ]; do s=$((s + i * 3)); i=$((i + 1)); done; [ $s = 5997000 ]",
			NULL});
}

static void run_awk(long n)
{
	for (long i = 0; i < n; i++)
		command((char *[]){
			busybox(), "awk",
			"BEGIN { for (i = 0; i < 5000; i++) { a[i % 97] += i; s = s i % 10 } exit a[5] != 128882 }",
			NULL});
}

static void run_fault(long n) /* a MiB: mapped, touched, unmapped */
{
	for (long i = 0; i < n; i++) {
		char *p = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			       -1, 0);

		if (p == MAP_FAILED)
			wrong("fault");
		for (size_t at = 0; at < 1 << 20; at += 4096)
			p[at] = 1;
		munmap(p, 1 << 20);
	}
}

static void run_mprotect(long n)
{
	char *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	p[0] = 1;
	for (long i = 0; i < n; i++) {
		mprotect(p, 4096, PROT_READ);
		mprotect(p, 4096, PROT_READ | PROT_WRITE);
		p[0]++;
	}
	munmap(p, 4096);
}

static void run_smc(long n) /* a function of six bytes, written anew before each call */
{
	unsigned char *code = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC,
				   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	unsigned char function[] = {0xB8, 0, 0, 0, 0, 0xC3}; /* mov eax, imm32; ret */

	for (long i = 0; i < n; i++) {
		uint32_t value = (uint32_t)i;

		memcpy(function + 1, &value, 4);
		memcpy(code, function, sizeof(function));
		if (((uint32_t(*)(void))(uintptr_t)code)() != value)
			wrong("smc");
	}
	munmap(code, 4096);
}

const struct test tests_system[] = {
	{"exec-dynamic-cold", "us", run_exec_dynamic_cold, 1},
	{"exec-dynamic", "runs/s", run_exec_dynamic, 0},
	{"null-call", "calls/s", run_null, 0},
	{"stat", "calls/s", run_stat, 0},
	{"signal", "signals/s", run_signal, 0},
	{"pipe", "turns/s", run_pipe, 0},
	{"thread", "threads/s", run_thread, 0},
	{"fork", "forks/s", run_fork, 0},
	{"exec-static", "runs/s", run_exec_static, 0},
	{"shell", "loops/s", run_shell, 0},
	{"awk", "loops/s", run_awk, 0},
	{"page-fault", "MiB/s", run_fault, 0},
	{"mprotect", "pairs/s", run_mprotect, 0},
	{"smc", "calls/s", run_smc, 0},
	{0},
};
