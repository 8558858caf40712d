/* What can be done to a pool. Loop's thread, but the run functions, which are a worker's. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "host/storage/storage_int.h"

#define FILE_BYTES 216

static void file_name(const char *pool, char buf[FILE_BYTES])
{
	snprintf(buf, FILE_BYTES, "%s.xml", pool);
}

static int no_run(struct storage_job *job, struct error *err)
{
	return 0;
}

/* --- define --- */

static int define_run(struct storage_job *job, struct error *err)
{
	char file[FILE_BYTES];

	file_name(job->pool_name, file);
	return store_write(job->definitions, file, job->text, strlen(job->text), err);
}

static void define_finish(struct storage_job *job)
{
	struct storage_pool *pool = job->pool;

	if (job->def) {
		spec_xml_pool_free(pool->def);
		pool->def = steal_ptr(&job->def);
	}
	pool->listed = true;
	pool->persistent = true;
	storage_emit(pool, STORAGE_DEFINED);
}

/* A pool that is defined keeps its definition, and is started with the new one. */
static void create_finish(struct storage_job *job)
{
	if (job->def) {
		spec_xml_pool_free(job->pool->def);
		job->pool->def = steal_ptr(&job->def);
	}
	job->pool->listed = true;
	job->pool->active = true;
	storage_emit(job->pool, STORAGE_STARTED);
}

static int define_check(struct storage_job *job, struct error *err)
{
	if (!job->pool->gone)
		return 0;
	return error_set(err, -EBADFD, "pool '%s' was undefined meanwhile", job->pool->def->name);
}

static int start_check(struct storage_job *job, struct error *err)
{
	if (job->pool->active)
		return error_set(err, -EBADFD, "storage pool '%s' is already active",
				 job->pool->def->name);
	return define_check(job, err);
}

static int define_submit(struct storage_set *set, struct spec_xml_pool *def, bool start,
			 struct storage_done *done, struct error *err)
{
	struct storage_pool *pool;
	struct storage_job *job;
	int known = storage_add(set, def, &pool, err);

	if (known < 0)
		return known;
	if (known && start && pool->active)
		return error_set(err, -EBADFD, "pool '%s' is already active", def->name);
	job = storage_job_new(pool, start ? no_run : define_run,
			      start ? create_finish : define_finish, done);
	if (!job)
		return known;
	/* Of a pool that is known the definition changes when it is on disk. */
	job->def = known ? def : NULL;
	job->check = start ? start_check : define_check;
	job->scanned = start;
	if (known) {
		/* It is the new folder that is looked into. */
		free(job->folder);
		job->folder = strdup(def->path);
		if (!job->folder)
			job->check = storage_need_active; /* never holds here */
	}
	job->text = spec_xml_write_pool(def, NULL);
	if (!job->text)
		job->check = storage_need_active; /* never holds here */
	storage_job_submit(job);
	return known ? 2 : 0;
}

void storage_define(struct storage_set *set, const char *xml, bool start, struct storage_done *done)
{
	struct error err = ERROR_INIT;
	struct spec_xml_pool *def = NULL;
	int r = spec_xml_parse_pool(xml, strlen(xml), &def, &err);

	if (r >= 0)
		r = define_submit(set, def, start, done, &err);
	if (r >= 0)
		return;
	spec_xml_pool_free(def);
	done->fn(done, NULL, NULL, r, &err);
}

/* --- undefine, autostart --- */

static int inactive_check(struct storage_job *job, struct error *err)
{
	if (job->pool->active)
		return error_set(err, -EBADFD, "storage pool '%s' is still active",
				 job->pool->def->name);
	return define_check(job, err);
}

static int undefine_run(struct storage_job *job, struct error *err)
{
	char file[FILE_BYTES];
	int r;

	file_name(job->pool_name, file);
	r = store_remove(job->autostart, file, err);
	return r < 0 ? r : store_remove(job->definitions, file, err);
}

static void undefine_finish(struct storage_job *job)
{
	storage_emit(job->pool, STORAGE_UNDEFINED);
	storage_forget(job->pool);
}

static void submit(struct storage_pool *pool,
		   int (*check)(struct storage_job *job, struct error *err),
		   int (*run)(struct storage_job *job, struct error *err),
		   void (*finish)(struct storage_job *job), bool scanned, bool flag,
		   struct storage_done *done)
{
	struct storage_job *job = storage_job_new(pool, run, finish, done);

	if (!job)
		return;
	job->check = check;
	job->scanned = scanned;
	job->flag = flag;
	storage_job_submit(job);
}

void storage_undefine(struct storage_pool *pool, struct storage_done *done)
{
	submit(pool, inactive_check, undefine_run, undefine_finish, false, false, done);
}

static int persistent_check(struct storage_job *job, struct error *err)
{
	if (job->pool->persistent)
		return define_check(job, err);
	return error_set(err, -ECHILD, "cannot set autostart for transient pool");
}

static int autostart_run(struct storage_job *job, struct error *err)
{
	char file[FILE_BYTES], target[FILE_BYTES + 8];

	file_name(job->pool_name, file);
	snprintf(target, sizeof(target), "../%s", file);
	return job->flag ? store_link(job->autostart, file, target, err)
			 : store_remove(job->autostart, file, err);
}

static void autostart_finish(struct storage_job *job)
{
	job->pool->autostart = job->flag;
}

void storage_set_autostart_of(struct storage_pool *pool, bool on, struct storage_done *done)
{
	submit(pool, persistent_check, autostart_run, autostart_finish, false, on, done);
}

/* --- start and stop --- */

static int build_run(struct storage_job *job, struct error *err)
{
	return store_make_folder(job->folder, job->mode >= 0 ? (mode_t)job->mode : 0711, err);
}

static void start_finish(struct storage_job *job)
{
	job->pool->active = true;
	storage_emit(job->pool, STORAGE_STARTED);
}

void storage_start(struct storage_pool *pool, bool build, struct storage_done *done)
{
	submit(pool, start_check, build ? build_run : no_run, start_finish, true, false, done);
}

static void stop_finish(struct storage_job *job)
{
	struct storage_pool *pool = job->pool;
	struct storage_scan nothing = {0};

	storage_take_scan(pool, &nothing);
	pool->active = false;
	storage_emit(pool, STORAGE_STOPPED);
	if (!pool->persistent)
		storage_forget(pool);
}

void storage_stop(struct storage_pool *pool, struct storage_done *done)
{
	submit(pool, storage_need_active, no_run, stop_finish, false, false, done);
}

static void refresh_finish(struct storage_job *job)
{
	storage_emit(job->pool, STORAGE_REFRESHED);
}

void storage_refresh(struct storage_pool *pool, struct storage_done *done)
{
	submit(pool, storage_need_active, no_run, refresh_finish, true, false, done);
}

static void built_finish(struct storage_job *job)
{
	storage_emit(job->pool, STORAGE_CREATED);
}

void storage_build(struct storage_pool *pool, struct storage_done *done)
{
	submit(pool, inactive_check, build_run, built_finish, false, false, done);
}

static int delete_run(struct storage_job *job, struct error *err)
{
	if (rmdir(job->folder) < 0)
		return error_set_errno(err, -errno, "cannot remove the directory '%s'",
				       job->folder);
	return 0;
}

static void deleted_finish(struct storage_job *job)
{
	storage_emit(job->pool, STORAGE_DELETED);
}

void storage_delete(struct storage_pool *pool, struct storage_done *done)
{
	submit(pool, inactive_check, delete_run, deleted_finish, false, false, done);
}

/* --- autostart --- */

static void started(struct storage_done *done, struct storage_pool *pool,
		    const struct storage_volume *volume, int r, const struct error *err)
{
	if (r < 0)
		log_warning("the pool '%s' was not started: %s", pool ? pool->def->name : "?",
			    err->text);
	free(done);
}

void storage_set_autostart(struct storage_set *set)
{
	for (struct storage_pool *pool = storage_first(set); pool; pool = storage_next(pool)) {
		struct storage_done *done = pool->autostart ? malloc(sizeof(*done)) : NULL;

		if (!done)
			continue;
		done->fn = started;
		storage_start(pool, false, done);
	}
}
