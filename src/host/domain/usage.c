/* What a running machine uses, from /proc: reads that never wait for it. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fd.h"
#include "host/domain/domain_int.h"

/* Fields of proc(5)'s stat, counted from 1. */
enum { FIELD_UTIME = 14, FIELD_STIME = 15, FIELD_RSS = 24, FIELD_PROCESSOR = 39, N_FIELDS = 40 };

static bool read_stat(const char *path, uint64_t fields[N_FIELDS])
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	char text[1024];
	ssize_t n = fd < 0 ? -1 : fd_read_full(fd, text, sizeof(text) - 1);
	char *at;

	if (n <= 0)
		return false;
	text[n] = '\0';
	at = strrchr(text, ')');
	if (!at)
		return false;
	/* A letter is the third. */
	at = strchr(at + 2, ' ');
	for (int i = 4; at && i < N_FIELDS; i++)
		fields[i] = strtoull(at, &at, 10);
	return at != NULL;
}

static uint64_t tick_ns(void)
{
	return NSEC_PER_SEC / (uint64_t)sysconf(_SC_CLK_TCK);
}

bool domain_get_usage(const struct domain *dom, struct domain_usage *ret)
{
	uint64_t fields[N_FIELDS] = {0};
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)dom->pid);
	if (!domain_active(dom) || dom->pid <= 0 || !read_stat(path, fields))
		return false;
	*ret = (struct domain_usage){
		.user_ns = fields[FIELD_UTIME] * tick_ns(),
		.system_ns = fields[FIELD_STIME] * tick_ns(),
		.rss_kib = fields[FIELD_RSS] * ((uint64_t)sysconf(_SC_PAGESIZE) / KIB),
	};
	return true;
}

bool domain_get_vcpu(const struct domain *dom, unsigned index, uint64_t *ret_ns, int *ret_cpu)
{
	uint64_t fields[N_FIELDS] = {0};
	char path[64];

	if (!domain_active(dom) || !dom->vmm || index >= dom->vmm->n_threads)
		return false;
	snprintf(path, sizeof(path), "/proc/%d/task/%d/stat", (int)dom->pid,
		 dom->vmm->threads[index]);
	if (!read_stat(path, fields))
		return false;
	*ret_ns = (fields[FIELD_UTIME] + fields[FIELD_STIME]) * tick_ns();
	*ret_cpu = (int)fields[FIELD_PROCESSOR];
	return true;
}
