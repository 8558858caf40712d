/* The set of pools: looking up, what is on disk at the start, jobs and events. Loop's thread. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/str.h"
#include "host/storage/storage_int.h"

#define WORKERS 8
#define SUFFIX  ".xml"

/* --- one pool --- */

struct storage_pool *storage_ref(struct storage_pool *pool)
{
	pool->refs++;
	return pool;
}

void storage_unref(struct storage_pool *pool)
{
	struct storage_scan scan;

	if (!pool || --pool->refs > 0)
		return;
	scan = (struct storage_scan){pool->volumes, pool->n_volumes, pool->state};
	storage_scan_free(&scan);
	spec_xml_pool_free(pool->def);
	free(pool);
}

static struct storage_pool *find_name(const struct storage_set *set, const char *name)
{
	struct storage_pool *pool = set->first;

	while (pool && !str_eq(pool->def->name, name))
		pool = pool->next;
	return pool;
}

static struct storage_pool *find_uuid(const struct storage_set *set, const uint8_t uuid[16])
{
	struct storage_pool *pool = set->first;

	while (pool && memcmp(pool->def->uuid, uuid, 16) != 0)
		pool = pool->next;
	return pool;
}

int storage_add(struct storage_set *set, struct spec_xml_pool *def, struct storage_pool **ret,
		struct error *err)
{
	struct storage_pool *same = find_uuid(set, def->uuid), *named = find_name(set, def->name);
	struct storage_pool *pool;

	if (!store_name_good(def->name))
		return error_set(err, -EBADMSG, "element <name>: '%.60s' cannot be a pool's name",
				 def->name);
	if (named && named != same)
		return error_set(err, -EEXIST, "pool '%s' already exists with another uuid",
				 named->def->name);
	if (same && !str_eq(same->def->name, def->name))
		return error_set(err, -EEXIST, "pool '%s' has this uuid already", same->def->name);
	if (same) {
		*ret = same;
		return 1;
	}
	pool = set->count < STORAGE_MAX_POOLS ? calloc(1, sizeof(*pool)) : NULL;
	if (!pool)
		return error_set(err, -ENOMEM, "no room for another pool");
	pool->set = set;
	pool->refs = 1;
	pool->def = def;
	pool->jobs_tail = &pool->jobs;
	/* In the order of appearance. */
	struct storage_pool **at = &set->first;

	while (*at)
		at = &(*at)->next;
	*at = pool;
	set->count++;
	*ret = pool;
	return 0;
}

void storage_forget(struct storage_pool *pool)
{
	if (pool->gone)
		return;
	for (struct storage_pool **at = &pool->set->first; *at; at = &(*at)->next) {
		if (*at == pool) {
			*at = pool->next;
			break;
		}
	}
	pool->set->count--;
	pool->gone = true;
	pool->listed = false;
	storage_unref(pool);
}

/* --- looking up --- */

static struct storage_pool *listed(struct storage_pool *pool)
{
	return pool && pool->listed ? pool : NULL;
}

struct storage_pool *storage_by_name(const struct storage_set *set, const char *name)
{
	return listed(find_name(set, name));
}

struct storage_pool *storage_by_uuid(const struct storage_set *set, const uint8_t uuid[16])
{
	return listed(find_uuid(set, uuid));
}

struct storage_pool *storage_by_path(const struct storage_set *set, const char *path)
{
	struct storage_pool *pool = storage_first(set);

	while (pool && !(pool->active && str_eq(pool->def->path, path)))
		pool = storage_next(pool);
	return pool;
}

struct storage_pool *storage_first(const struct storage_set *set)
{
	struct storage_pool *pool = set->first;

	while (pool && !pool->listed)
		pool = pool->next;
	return pool;
}

struct storage_pool *storage_next(const struct storage_pool *pool)
{
	struct storage_pool *next = pool->next;

	while (next && !next->listed)
		next = next->next;
	return next;
}

static int compare_name(const void *key, const void *volume)
{
	return strcmp(key, ((const struct storage_volume *)volume)->name);
}

const struct storage_volume *storage_volume(const struct storage_pool *pool, const char *name)
{
	if (!pool->active || pool->n_volumes == 0)
		return NULL;
	return bsearch(name, pool->volumes, pool->n_volumes, sizeof(*pool->volumes), compare_name);
}

const struct storage_volume *storage_volume_by_path(const struct storage_set *set, const char *path,
						    struct storage_pool **ret_pool)
{
	for (struct storage_pool *pool = storage_first(set); pool; pool = storage_next(pool)) {
		size_t len = strlen(pool->def->path);
		const struct storage_volume *volume;

		if (!str_starts(path, pool->def->path) || path[len] != '/')
			continue;
		volume = storage_volume(pool, path + len + 1);
		if (volume) {
			*ret_pool = pool;
			return volume;
		}
	}
	return NULL;
}

char *storage_pool_xml(const struct storage_pool *pool)
{
	return spec_xml_write_pool(pool->def, pool->active ? &pool->state : NULL);
}

char *storage_volume_xml(const struct storage_volume *volume)
{
	return spec_xml_write_volume(&(struct spec_xml_volume_state){
		.name = volume->name,
		.path = volume->path,
		.format = volume->format,
		.capacity = volume->capacity,
		.allocation = (uint64_t)volume->st.st_blocks * 512,
		.physical = (uint64_t)volume->st.st_size,
		.mode = volume->st.st_mode & 07777,
		.uid = volume->st.st_uid,
		.gid = volume->st.st_gid,
		.atime = volume->st.st_atim,
		.mtime = volume->st.st_mtim,
		.ctime = volume->st.st_ctim,
	});
}

/* --- jobs --- */

static void job_free(struct storage_job *job)
{
	storage_scan_free(&job->scan);
	spec_xml_pool_free(job->def);
	spec_xml_volume_free(job->volume);
	free(job->folder);
	free(job->pool_name);
	free(job->name);
	free(job->path);
	free(job->from);
	free(job->text);
	storage_unref(job->pool);
	free(job);
}

static void job_tell(const struct storage_job *job, int r, const struct error *err)
{
	const struct storage_volume *volume =
		r >= 0 && job->name ? storage_volume(job->pool, job->name) : NULL;

	if (job->done)
		job->done->fn(job->done, job->pool, volume, r, err);
}

static void job_begin(struct storage_job *job);

static void job_end(struct storage_job *job, int r, const struct error *err)
{
	struct storage_pool *pool = storage_ref(job->pool);

	pool->jobs = job->next;
	if (!pool->jobs)
		pool->jobs_tail = &pool->jobs;
	pool->n_jobs--;
	job_tell(job, r, err);
	/* A first definition that came to nothing. */
	if (!pool->listed && !pool->gone && pool->n_jobs == 0)
		storage_forget(pool);
	job_free(job);
	if (pool->jobs && !pool->set->ending)
		job_begin(pool->jobs);
	storage_unref(pool);
}

static void job_run(struct work *work)
{
	struct storage_job *job = container_of(work, struct storage_job, work);

	job->r = job->run(job, &job->err);
	/* What a job did is seen at once, and what the folder has besides. */
	if (job->r >= 0 && job->scanned)
		job->r = storage_scan_folder(job->folder, &job->scan, &job->err);
}

static void job_done(struct work *work)
{
	struct storage_job *job = container_of(work, struct storage_job, work);

	if (job->r >= 0) {
		if (job->scanned)
			storage_take_scan(job->pool, &job->scan);
		job->finish(job);
	}
	job_end(job, job->r, &job->err);
}

static void job_begin(struct storage_job *job)
{
	struct error err = ERROR_INIT;
	int r = job->check ? job->check(job, &err) : 0;

	if (r < 0) {
		job_end(job, r, &err);
		return;
	}
	job->work.run = job_run;
	job->work.done = job_done;
	work_submit(job->pool->set->workers, &job->work);
}

struct storage_job *storage_job_new(struct storage_pool *pool,
				    int (*run)(struct storage_job *job, struct error *err),
				    void (*finish)(struct storage_job *job),
				    struct storage_done *done)
{
	struct storage_job *job = calloc(1, sizeof(*job));
	struct error err = ERROR_INIT;

	if (job) {
		job->pool = storage_ref(pool);
		job->folder = strdup(pool->def->path);
		job->pool_name = strdup(pool->def->name);
	}
	if (!job || !job->folder || !job->pool_name) {
		if (job)
			job_free(job);
		error_set(&err, -ENOMEM, "no memory for a job");
		if (done)
			done->fn(done, NULL, NULL, -ENOMEM, &err);
		return NULL;
	}
	job->run = run;
	job->finish = finish;
	job->done = done;
	job->definitions = &pool->set->definitions;
	job->autostart = &pool->set->autostart;
	job->mode = pool->def->mode;
	return job;
}

void storage_job_submit(struct storage_job *job)
{
	struct storage_pool *pool = job->pool;
	struct error err = ERROR_INIT;

	if (pool->n_jobs >= STORAGE_MAX_JOBS) {
		error_set(&err, -ETIMEDOUT, "pool '%s' is busy: %u operations wait",
			  pool->def->name, pool->n_jobs);
		job_tell(job, -ETIMEDOUT, &err);
		job_free(job);
		return;
	}
	*pool->jobs_tail = job;
	pool->jobs_tail = &job->next;
	pool->n_jobs++;
	if (pool->jobs == job)
		job_begin(job);
}

void storage_jobs_cancel(struct storage_pool *pool)
{
	struct error err = ERROR_INIT;

	error_set(&err, -ECANCELED, "the daemon ends");
	while (pool->jobs) {
		struct storage_job *job = pool->jobs;

		pool->jobs = job->next;
		job_tell(job, -ECANCELED, &err);
		job_free(job);
	}
}

int storage_need_active(struct storage_job *job, struct error *err)
{
	if (job->pool->active)
		return 0;
	return error_set(err, -EBADFD, "storage pool '%s' is not active", job->pool->def->name);
}

/* --- events --- */

void storage_listen(struct storage_set *set, struct storage_listener *listener)
{
	set->listener = listener;
}

void storage_emit(const struct storage_pool *pool, enum storage_event event)
{
	struct storage_listener *listener = pool->set->listener;

	if (listener)
		listener->fn(listener, pool, event);
}

/* --- the set --- */

static int load(struct storage_set *set, const char *file, struct error *err)
{
	_cleanup_free_ char *text = NULL;
	struct spec_xml_pool *def = NULL;
	struct storage_pool *pool;
	size_t len;
	int r = store_read(&set->definitions, file, &text, &len, err);

	if (r >= 0)
		r = spec_xml_parse_pool(text, len, &def, err);
	if (r < 0)
		return r;
	r = storage_add(set, def, &pool, err);
	if (r != 0) {
		spec_xml_pool_free(def);
		return r < 0 ? r : error_set(err, -EEXIST, "it is there twice");
	}
	pool->persistent = true;
	pool->listed = true;
	pool->autostart = store_has(&set->autostart, file);
	return 0;
}

static int load_one(void *opaque, const char *file)
{
	struct storage_set *set = opaque;
	struct error err = ERROR_INIT;

	if (file[0] != '.' && load(set, file, &err) < 0)
		log_warning("the pool '%s/%s' is left alone: %s", set->definitions.path, file,
			    err.text);
	return 0;
}

static int open_store(struct store *store, const char *folder, const char *name, struct error *err)
{
	_cleanup_free_ char *path = NULL;

	if (asprintf(&path, "%s/%s", folder, name) < 0) {
		path = NULL;
		return error_set(err, -ENOMEM, "no memory for a path");
	}
	return store_open(store, path, NULL, err);
}

int storage_set_new(struct loop *loop, const char *config_dir, struct storage_set **ret,
		    struct error *err)
{
	struct storage_set *set = calloc(1, sizeof(*set));
	int r;

	if (!set)
		return error_set(err, -ENOMEM, "no memory for pools");
	set->loop = loop;
	r = work_pool_new(loop, WORKERS, &set->workers);
	if (r >= 0)
		r = open_store(&set->definitions, config_dir, "storage", err);
	if (r >= 0)
		r = open_store(&set->autostart, config_dir, "storage/autostart", err);
	if (r >= 0)
		r = store_each(&set->definitions, SUFFIX, load_one, set);
	if (r < 0) {
		storage_set_free(set);
		return r;
	}
	*ret = set;
	return 0;
}

void storage_set_free(struct storage_set *set)
{
	if (!set)
		return;
	set->ending = true;
	set->listener = NULL;
	work_pool_free(set->workers);
	while (set->first) {
		struct storage_pool *pool = storage_ref(set->first);

		storage_jobs_cancel(pool);
		storage_forget(pool);
		storage_unref(pool);
	}
	store_close(&set->definitions);
	store_close(&set->autostart);
	free(set);
}
