/*
 * Storage pools and their volumes: folders and the disk images in them. What is read here is memory; what touches a disk is a job of its pool, carried out on a
 * worker thread, one at a time for a pool and in order, so that a folder on a dead server holds up nobody but those who ask for it.
 *
 * Thread: one loop. Errors: -ENOENT no such pool or volume; -EBADFD not in this state; -EEXIST taken; -EOPNOTSUPP, -EBADMSG as spec/xml.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#include "base/error.h"
#include "base/loop.h"
#include "host/system/work.h"
#include "spec/xml/storage.h"

struct storage_volume {
	char *name, *path;
	const char *format; /* constant */
	uint64_t capacity;  /* bytes that a guest sees */
	struct stat st;
};

struct storage_job;
struct storage_set;

struct storage_pool {
	struct storage_set *set;
	struct storage_pool *next;
	unsigned refs;
	struct spec_xml_pool *def;
	bool listed, gone;
	bool active, persistent, autostart;
	struct storage_volume *volumes; /* sorted by name; of an active pool */
	size_t n_volumes;
	struct spec_xml_pool_state state; /* of an active pool */
	struct storage_job *jobs, **jobs_tail;
	unsigned n_jobs;
};

/* config_dir: storage/NAME.xml and storage/autostart below it. */
int storage_set_new(struct loop *loop, const char *config_dir, struct storage_set **ret,
		    struct error *err);
void storage_set_free(struct storage_set *set);
/* Starts what is marked; in the background. */
void storage_set_autostart(struct storage_set *set);

struct storage_pool *storage_first(const struct storage_set *set);
struct storage_pool *storage_next(const struct storage_pool *pool);
struct storage_pool *storage_by_name(const struct storage_set *set, const char *name);
struct storage_pool *storage_by_uuid(const struct storage_set *set, const uint8_t uuid[16]);
struct storage_pool *storage_by_path(const struct storage_set *set, const char *path);
struct storage_pool *storage_ref(struct storage_pool *pool);
void storage_unref(struct storage_pool *pool);

/* Borrowed until the pool's next job. NULL: none of that name. */
const struct storage_volume *storage_volume(const struct storage_pool *pool, const char *name);
/* By its path, in any active pool; *ret_pool is where. */
const struct storage_volume *storage_volume_by_path(const struct storage_set *set, const char *path,
						    struct storage_pool **ret_pool);
/* Heap text; NULL without memory. */
char *storage_pool_xml(const struct storage_pool *pool);
char *storage_volume_xml(const struct storage_volume *volume);

/* --- jobs --- */

/* Told once, on the loop. pool: NULL when it failed before there was one. volume: of those that make one. */
struct storage_done {
	void (*fn)(struct storage_done *done, struct storage_pool *pool,
		   const struct storage_volume *volume, int r, const struct error *err);
};

/* start: a transient pool, active from the start. */
void storage_define(struct storage_set *set, const char *xml, bool start,
		    struct storage_done *done);
void storage_undefine(struct storage_pool *pool, struct storage_done *done);
void storage_start(struct storage_pool *pool, bool build, struct storage_done *done);
void storage_stop(struct storage_pool *pool, struct storage_done *done);
/* Makes the folder, or removes it (it must be empty). */
void storage_build(struct storage_pool *pool, struct storage_done *done);
void storage_delete(struct storage_pool *pool, struct storage_done *done);
void storage_refresh(struct storage_pool *pool, struct storage_done *done);
void storage_set_autostart_of(struct storage_pool *pool, bool on, struct storage_done *done);

/* from: a volume whose content it gets, NULL: none (zeroes). */
void storage_volume_create(struct storage_pool *pool, const char *xml, const char *from_path,
			   struct storage_done *done);
void storage_volume_delete(struct storage_pool *pool, const char *name, struct storage_done *done);
void storage_volume_resize(struct storage_pool *pool, const char *name, uint64_t bytes, bool shrink,
			   bool delta, bool allocate, struct storage_done *done);
void storage_volume_wipe(struct storage_pool *pool, const char *name, struct storage_done *done);

/* --- events --- */

enum storage_event {
	STORAGE_DEFINED = 0,
	STORAGE_UNDEFINED = 1,
	STORAGE_STARTED = 2,
	STORAGE_STOPPED = 3,
	STORAGE_CREATED = 4,
	STORAGE_DELETED = 5,
	STORAGE_REFRESHED = -1, /* an event of its own kind */
};

struct storage_listener {
	void (*fn)(struct storage_listener *listener, const struct storage_pool *pool,
		   enum storage_event event);
};
/* One listener, NULL: none. */
void storage_listen(struct storage_set *set, struct storage_listener *listener);
