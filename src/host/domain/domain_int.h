/* Inside of src/host/domain: the set, jobs, processes. All on the loop, but where a worker is said. */
#pragma once

#include "host/domain/domain.h"
#include "host/domain/qmp_client.h"
#include "host/store/store.h"
#include "host/system/uuid.h"
#include "host/system/work.h"

#define DOMAIN_MAX           16384 /* what a list on the wire holds */
#define DOMAIN_MAX_JOBS      16    /* waiting for one machine */
#define DOMAIN_JOB_WAIT_NS   (30 * NSEC_PER_SEC)
#define DOMAIN_XML_SUFFIX    ".xml"
#define DOMAIN_STATUS_SUFFIX ".json"
#define DOMAIN_BUCKETS       1024 /* of each hash */

struct domain_set {
	struct loop *loop;
	struct domain_config config;
	struct store machines, autostart, runtime;
	struct store_ops runtime_ops;
	struct work_pool *pool;
	struct domain *first, **last;
	struct domain *names[DOMAIN_BUCKETS], *uuids[DOMAIN_BUCKETS];
	unsigned count;
	int next_id;
	bool ending;
	struct domain_listener *listeners;
};

/* --- set.c --- */

/* A machine with the name and UUID of xml, not listed yet; in the set, so that both are taken. The caller has the reference that the set holds. */
int domain_new(struct domain_set *set, const struct spec_xml *xml, struct domain **ret,
	       struct error *err);
/* Out of the set; the set's reference goes with it. */
void domain_forget(struct domain *dom);
int domain_set_name(struct domain *dom, const char *name);
void domain_emit(struct domain *dom, int event, int detail);
void domain_emit_reboot(struct domain *dom);
/* Free to take for xml? *ret_existing: the machine that it would replace. */
int domain_find_place(const struct domain_set *set, const struct spec_xml *xml,
		      struct domain **ret_existing, struct error *err);
void domain_set_def(struct domain *dom, struct spec_xml *xml);

/* --- job.c --- */

struct domain_job {
	struct domain_job *next;
	struct domain *dom;       /* a reference */
	struct domain_done *done; /* NULL: nobody asked */
	const char *what;
	/* Begins it; ends with domain_job_end(), now or later. */
	void (*start)(struct domain_job *job);
	void (*finish)(struct domain_job *job); /* on the loop, after the worker: 0 was returned */
	int (*run)(struct domain_job *job, struct error *err); /* on a worker */
	struct loop_timer wait;
	struct work work;
	int r;
	struct error err;
	/* Parameters. */
	struct spec_xml *xml;
	char *text, *name;
	bool flag, quiet;
	int id;
	struct qmp_client_reply reply;
	struct loop_timer timer;
};

/* NULL without memory, which `done` has been told. */
struct domain_job *domain_job_new(struct domain *dom, const char *what,
				  void (*start)(struct domain_job *job), struct domain_done *done);
void domain_job_submit(struct domain_job *job);
void domain_job_end(struct domain_job *job, int r, const struct error *err);
/* For start: run on a worker, then finish on the loop; ends the job when run fails. */
void domain_job_work(struct domain_job *job);
/* One QMP command whose answer ends the job. */
void domain_job_qmp(struct domain_job *job, const char *command);
/* Ends every job of a machine that goes. */
void domain_jobs_cancel(struct domain *dom);
void domain_done_tell(struct domain_done *done, struct domain *dom, int r, const struct error *err);

/* --- vmm.c --- */

struct domain_vmm {
	struct domain *dom;
	bool child;
	uint64_t start_ticks;  /* when the process started: /proc/PID/stat, field 22 */
	struct loop_fd exited; /* a pidfd, owned */
	struct qmp_client *qmp;
	char *qmp_path;
	struct loop_timer timer; /* connecting */
	uint64_t deadline_ns, wait_ns;
	struct domain_job *starting, *ending; /* the job that waits for it to be up, or gone */
	bool paused_start, ready;
	bool by_guest, panicked, reboot, asked_to_end;
	long log_from; /* where its lines in the log begin */
	int *threads;  /* of its vCPUs */
	unsigned n_threads;
	struct qmp_client_reply status, chars, cpus, cont, quit;
};

/* Starts the process for job->dom with dom->live; the job ends when it runs. */
int domain_vmm_start(struct domain_job *job, struct error *err);
/* Takes over a process that runs already. */
int domain_vmm_adopt(struct domain *dom, pid_t pid, uint64_t start_ticks, struct error *err);
/* Lets go of the process, which goes on. */
void domain_vmm_free(struct domain_vmm *vmm);
uint64_t domain_process_start(pid_t pid);

/* --- start.c --- */

/* A machine's process is there and speaks: it is running or paused from now on. */
void domain_is_up(struct domain *dom, bool paused);
/* It has ended. status: as waitpid() gives it, -1 when that is not known. */
void domain_has_ended(struct domain *dom, int status);
/* The last lines of its log since it started, for messages; buf is "" when there are none. */
void domain_log_tail(const struct domain *dom, char *buf, size_t size);

/* --- status.c: what a restarted daemon finds --- */

int domain_status_write(struct domain *dom, struct error *err);
void domain_status_remove(struct domain *dom);
void domain_status_adopt_all(struct domain_set *set);
