/*
 * A machine's life on this host: definitions, the state machine, jobs, events. A machine is a vireo-vmm process that the daemon starts and speaks to by
 * QMP alone; it outlives the daemon, which finds it again.
 *
 * Thread: one loop. What a caller reads here never waits: it is memory, or a file of /proc. What changes a machine is a job: one at a time for a
 * machine, in order, and its end is told to struct domain_done. Files are written by worker threads.
 *
 * Errors: -ENOENT no such machine; -EBADFD not in this state; -EEXIST name or UUID taken; -EOPNOTSUPP an element that Vireo cannot do; -EBADMSG no XML of a
 * machine; -ETIMEDOUT; -EACCES. The text names machine and reason.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"
#include "base/loop.h"
#include "spec/xml/xml.h"

/* libvirt's numbers, as are all reasons and details below. */
enum domain_state {
	DOMAIN_RUNNING = 1,
	DOMAIN_PAUSED = 3,
	DOMAIN_IN_SHUTDOWN = 4,
	DOMAIN_SHUTOFF = 5,
	DOMAIN_CRASHED = 6,
};

enum domain_running_reason { DOMAIN_RUNNING_BOOTED = 1, DOMAIN_RUNNING_UNPAUSED = 5 };
enum domain_paused_reason { DOMAIN_PAUSED_USER = 1, DOMAIN_PAUSED_STARTING_UP = 11 };
enum domain_shutoff_reason {
	DOMAIN_SHUTOFF_UNKNOWN = 0,
	DOMAIN_SHUTOFF_SHUTDOWN = 1,
	DOMAIN_SHUTOFF_DESTROYED = 2,
	DOMAIN_SHUTOFF_CRASHED = 3,
	DOMAIN_SHUTOFF_FAILED = 6,
};

struct domain_set;
struct domain_job;
struct domain_vmm;

struct domain {
	struct domain_set *set;
	unsigned refs;
	struct domain *next, **at;        /* in the set, in the order of appearance */
	struct domain *by_name, *by_uuid; /* hash chains */
	char *name;
	uint8_t uuid[16];
	int id; /* -1: does not run */
	enum domain_state state;
	int reason;
	bool listed; /* a first definition is on disk, or it was created */
	bool gone;   /* no longer in the set; somebody holds a reference */
	bool persistent;
	bool autostart;
	bool updated;                   /* the definition was changed while it ran */
	struct spec_xml *def;           /* as defined; of a transient machine as created */
	struct spec_xml *live;          /* what runs; NULL otherwise */
	char *live_text;                /* its XML with everything that was assigned */
	char *serial_tty, *console_tty; /* while it runs; or NULL */
	pid_t pid;                      /* while it runs */
	uint64_t started_ns;            /* wall clock */
	struct domain_vmm *vmm;
	struct domain_job *jobs, **jobs_tail; /* the first is under way */
	unsigned n_jobs;
};

struct domain_dirs {
	const char *config;  /* machines/NAME.xml, autostart/ */
	const char *state;   /* log/NAME.log */
	const char *runtime; /* UUID.qmp, UUID.json: of running machines */
};

/* All borrowed, for the set's life. */
struct domain_config {
	struct domain_dirs dirs;
	const char *vmm;      /* path of vireo-vmm */
	const char *emulator; /* what <emulator> of a definition without one says */
};

/* Reads every definition and adopts the machines that run. What cannot be read is logged and left alone. */
int domain_set_new(struct loop *loop, const struct domain_config *config, struct domain_set **ret,
		   struct error *err);
/* Running machines go on. Jobs that are under way are forgotten. */
void domain_set_free(struct domain_set *set);
/* Starts what is marked autostart and does not run. */
void domain_set_autostart(struct domain_set *set);

/* The first listed machine, and the one after; NULL at the end. */
struct domain *domain_first(const struct domain_set *set);
struct domain *domain_next(const struct domain *dom);
/* NULL when there is none. Borrowed. */
struct domain *domain_by_name(const struct domain_set *set, const char *name);
struct domain *domain_by_uuid(const struct domain_set *set, const uint8_t uuid[16]);
struct domain *domain_by_id(const struct domain_set *set, int id);
struct domain *domain_ref(struct domain *dom);
void domain_unref(struct domain *dom);

static inline bool domain_active(const struct domain *dom)
{
	return dom->id >= 0;
}

/* --- jobs --- */

/* Told once, on the loop, possibly before the function that started it returns. r < 0: err says why. dom is what the job was about; NULL when it
 * failed before there was one. Memory is the caller's and must stay. */
struct domain_done {
	char *text; /* what domain_monitor() was answered: heap, its taker's */
	void (*fn)(struct domain_done *done, struct domain *dom, int r, const struct error *err);
};

/* A definition, new or in place of the one with its UUID. validate_only is not offered. */
void domain_define(struct domain_set *set, const char *xml, struct domain_done *done);
/* Starts a machine that is forgotten when it ends. */
void domain_create(struct domain_set *set, const char *xml, bool paused, struct domain_done *done);
void domain_undefine(struct domain *dom, struct domain_done *done);
void domain_start(struct domain *dom, bool paused, struct domain_done *done);
/* Ends it at once. graceful: do not kill what does not end when asked. */
void domain_destroy(struct domain *dom, bool graceful, struct domain_done *done);
/* Presses the power button. */
void domain_shutdown(struct domain *dom, struct domain_done *done);
/* Presses the power button; when the guest powers off, it is started again. */
void domain_reboot(struct domain *dom, struct domain_done *done);
void domain_reset(struct domain *dom, struct domain_done *done);
void domain_suspend(struct domain *dom, struct domain_done *done);
void domain_resume(struct domain *dom, struct domain_done *done);
void domain_nmi(struct domain *dom, struct domain_done *done);
/* One QMP command, as the text of a JSON object; the machine's answer, an error of QMP's too, is in done->text. */
void domain_monitor(struct domain *dom, const char *command, struct domain_done *done);
void domain_rename(struct domain *dom, const char *name, struct domain_done *done);
void domain_set_autostart_of(struct domain *dom, bool on, struct domain_done *done);
/* type: libvirt's (0 description, 1 title, 2 element); text NULL removes. */
void domain_set_metadata(struct domain *dom, int type, const char *text, const char *key,
			 const char *uri, struct domain_done *done);

/* --- what is read --- */

/* Heap text; live: as it runs, else as defined. NULL without memory. */
char *domain_xml(const struct domain *dom, bool live);

struct domain_usage {
	uint64_t user_ns, system_ns; /* of the process with its threads */
	uint64_t rss_kib;
};
/* False when it does not run (or has just ended). */
bool domain_get_usage(const struct domain *dom, struct domain_usage *ret);
/* CPU time of one vCPU and the host's processor it ran on last; false when that is not known. */
bool domain_get_vcpu(const struct domain *dom, unsigned index, uint64_t *ret_ns, int *ret_cpu);

/* --- events --- */

enum domain_event_kind {
	DOMAIN_EVENT_LIFECYCLE,
	DOMAIN_EVENT_REBOOT,
};

enum domain_lifecycle {
	DOMAIN_DEFINED = 0,
	DOMAIN_UNDEFINED = 1,
	DOMAIN_STARTED = 2,
	DOMAIN_SUSPENDED = 3,
	DOMAIN_RESUMED = 4,
	DOMAIN_STOPPED = 5,
	DOMAIN_SHUTDOWN_EVENT = 6,
	DOMAIN_CRASHED_EVENT = 8,
};

struct domain_event {
	enum domain_event_kind kind;
	const struct domain *dom;
	const char *name;  /* what it was called then */
	int event, detail; /* of lifecycle */
};

/* Hears every event in the order in which things happened, on the loop. */
struct domain_listener {
	void (*fn)(struct domain_listener *listener, const struct domain_event *event);
	struct domain_listener *next;
};
void domain_listen(struct domain_set *set, struct domain_listener *listener);
void domain_unlisten(struct domain_set *set, struct domain_listener *listener);
