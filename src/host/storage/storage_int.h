/* Inside of src/host/storage. */
#pragma once

#include "host/storage/storage.h"
#include "host/store/store.h"

#define STORAGE_MAX_POOLS   1024
#define STORAGE_MAX_VOLUMES 16384 /* what a list on the wire holds */
#define STORAGE_MAX_JOBS    64    /* waiting for one pool */

struct storage_set {
	struct loop *loop;
	struct store definitions, autostart;
	struct work_pool *workers;
	struct storage_pool *first;
	unsigned count;
	bool ending;
	struct storage_listener *listener;
};

/* What a look into a pool's folder found. */
struct storage_scan {
	struct storage_volume *volumes;
	size_t n_volumes;
	struct spec_xml_pool_state state;
};

struct storage_job {
	struct storage_job *next;
	struct storage_pool *pool; /* a reference */
	struct storage_done *done;
	/* Checks on the loop whether it can be; NULL: it can. */
	int (*check)(struct storage_job *job, struct error *err);
	/* On a worker. The pool is not looked at there: what is needed is in the job. */
	int (*run)(struct storage_job *job, struct error *err);
	/* On the loop, when run has returned 0. */
	void (*finish)(struct storage_job *job);
	struct work work;
	int r;
	struct error err;
	/* Parameters and results. */
	const struct store *definitions, *autostart;
	char *folder, *pool_name; /* the pool's */
	char *name, *path, *from; /* the volume's */
	char *text;
	struct spec_xml_pool *def;
	struct spec_xml_volume *volume;
	uint64_t bytes;
	int mode;
	bool flag, shrink, delta, allocate, scanned;
	struct storage_scan scan;
};

/* NULL without memory, which done has been told. */
struct storage_job *storage_job_new(struct storage_pool *pool,
				    int (*run)(struct storage_job *job, struct error *err),
				    void (*finish)(struct storage_job *job),
				    struct storage_done *done);
void storage_job_submit(struct storage_job *job);
void storage_jobs_cancel(struct storage_pool *pool);

void storage_emit(const struct storage_pool *pool, enum storage_event event);
int storage_add(struct storage_set *set, struct spec_xml_pool *def, struct storage_pool **ret,
		struct error *err);
void storage_forget(struct storage_pool *pool);
int storage_need_active(struct storage_job *job, struct error *err);

/* --- scan.c: any thread --- */

int storage_scan_folder(const char *folder, struct storage_scan *ret, struct error *err);
void storage_scan_free(struct storage_scan *scan);
/* The scan becomes what the pool shows. */
void storage_take_scan(struct storage_pool *pool, struct storage_scan *scan);
