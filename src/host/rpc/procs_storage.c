/* Storage pools and volumes. Reads are answered from memory; what touches a disk is a pool's job. Loop's thread. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/str.h"
#include "host/rpc/procs_int.h"
#include "host/system/uuid.h"

/* libvirt's numbers. */
enum { POOL_INACTIVE = 0, POOL_RUNNING = 2 };
enum { START_WITH_BUILD = 1, START_BUILD_OVERWRITE = 2, START_BUILD_NO_OVERWRITE = 4 };
enum { RESIZE_ALLOCATE = 1, RESIZE_DELTA = 2, RESIZE_SHRINK = 4 };
enum { WIPE_ZERO = 0 };
enum { VOLUME_FILE = 0, VOLUME_PHYSICAL = 1 };
enum { STREAM_SPARSE = 1 };
enum {
	LIST_INACTIVE = 1 << 0,
	LIST_ACTIVE = 1 << 1,
	LIST_PERSISTENT = 1 << 2,
	LIST_TRANSIENT = 1 << 3,
	LIST_AUTOSTART = 1 << 4,
	LIST_NO_AUTOSTART = 1 << 5,
	LIST_DIR = 1 << 6,
	LIST_KNOWN = (1 << 20) - 1,
};

static struct storage_set *storage_of(const struct rpc_call *call)
{
	return call->client->server->host->storage;
}

/* The pool that a call speaks of; the call holds a reference. NULL: err and call->what are set. */
static struct storage_pool *pool_of(struct rpc_call *call, const w_pool *arg, struct error *err)
{
	const uint8_t *uuid = (const uint8_t *)arg->uuid;
	struct storage_pool *pool = storage_by_uuid(storage_of(call), uuid);
	char text[UUID_TEXT_BYTES];

	call->what = RPC_OBJECT_POOL;
	if (!pool) {
		uuid_format(uuid, text);
		error_set(err, -ENOENT, "no storage pool with matching uuid '%s' (%.60s)", text,
			  arg->name);
		return NULL;
	}
	call->pool = storage_ref(pool);
	return pool;
}

static int need_active(const struct storage_pool *pool, struct error *err)
{
	if (pool->active)
		return 0;
	return error_set(err, -EBADFD, "storage pool '%s' is not active", pool->def->name);
}

/* The volume that a call speaks of. */
static const struct storage_volume *volume_of(struct rpc_call *call, const w_vol *arg,
					      struct error *err)
{
	struct storage_pool *pool = storage_by_name(storage_of(call), arg->pool);
	const struct storage_volume *volume;

	call->what = RPC_OBJECT_POOL;
	if (!pool) {
		error_set(err, -ENOENT, "no storage pool with matching name '%.200s'", arg->pool);
		return NULL;
	}
	call->pool = storage_ref(pool);
	if (need_active(pool, err) < 0)
		return NULL;
	call->what = RPC_OBJECT_VOLUME;
	volume = storage_volume(pool, arg->name);
	if (!volume)
		error_set(err, -ENOENT, "no storage vol with matching name '%.200s'", arg->name);
	return volume;
}

static int put_pool(w_pool *ret, const struct storage_pool *pool, struct error *err)
{
	memcpy(ret->uuid, pool->def->uuid, sizeof(ret->uuid));
	return rpc_put_text(&ret->name, pool->def->name, err);
}

static int put_volume(w_vol *ret, const struct storage_pool *pool,
		      const struct storage_volume *volume, struct error *err)
{
	int r = rpc_put_text(&ret->pool, pool->def->name, err);

	if (r >= 0)
		r = rpc_put_text(&ret->name, volume->name, err);
	return r < 0 ? r : rpc_put_text(&ret->key, volume->path, err);
}

/* --- answers of jobs --- */

static void done_plain(struct storage_done *done, struct storage_pool *pool,
		       const struct storage_volume *volume, int r, const struct error *err)
{
	rpc_call_finish(container_of(done, struct rpc_call, storage_done), r, err);
}

static void done_pool(struct storage_done *done, struct storage_pool *pool,
		      const struct storage_volume *volume, int r, const struct error *err)
{
	struct rpc_call *call = container_of(done, struct rpc_call, storage_done);
	struct error mine = ERROR_INIT;

	if (r >= 0) {
		r = put_pool(call->ret, pool, &mine);
		err = &mine;
	}
	rpc_call_finish(call, r, err);
}

static void done_volume(struct storage_done *done, struct storage_pool *pool,
			const struct storage_volume *volume, int r, const struct error *err)
{
	struct rpc_call *call = container_of(done, struct rpc_call, storage_done);
	struct error mine = ERROR_INIT;

	if (r >= 0) {
		r = volume ? put_volume(call->ret, pool, volume, &mine)
			   : error_set(&mine, -ECANCELED, "the volume is gone again");
		err = &mine;
	}
	rpc_call_finish(call, r, err);
}

static struct storage_done *later(struct rpc_call *call,
				  void (*fn)(struct storage_done *done, struct storage_pool *pool,
					     const struct storage_volume *volume, int r,
					     const struct error *err))
{
	call->storage_done.fn = fn;
	return &call->storage_done;
}

/* --- lists --- */

static bool list_match(const struct storage_pool *pool, unsigned flags)
{
	static const unsigned groups[] = {LIST_INACTIVE | LIST_ACTIVE,
					  LIST_PERSISTENT | LIST_TRANSIENT,
					  LIST_AUTOSTART | LIST_NO_AUTOSTART,
					  LIST_KNOWN & ~(LIST_DIR - 1)};
	unsigned is = (pool->active ? LIST_ACTIVE : LIST_INACTIVE) |
		      (pool->persistent ? LIST_PERSISTENT : LIST_TRANSIENT) |
		      (pool->autostart ? LIST_AUTOSTART : LIST_NO_AUTOSTART) | LIST_DIR;

	for (size_t i = 0; i < ARRAY_SIZE(groups); i++)
		if ((flags & groups[i]) && !(is & flags & groups[i]))
			return false;
	return true;
}

int rpc_pool_list_all(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	const w_list_args *a = args;
	w_pools *list = ret;
	int r = 0;

	for (const struct storage_pool *pool = storage_first(storage_of(call)); pool;
	     pool = storage_next(pool))
		list->count += list_match(pool, a->flags);
	if (!a->need_results || list->count == 0)
		return 0;
	list->pools.pools_val = calloc(list->count, sizeof(*list->pools.pools_val));
	if (!list->pools.pools_val)
		return error_set(err, -ENOMEM, "no memory for the answer");
	for (const struct storage_pool *pool = storage_first(storage_of(call)); r >= 0 && pool;
	     pool = storage_next(pool))
		if (list_match(pool, a->flags))
			r = put_pool(&list->pools.pools_val[list->pools.pools_len++], pool, err);
	return r;
}

static int count_pools(const struct rpc_call *call, bool active)
{
	int n = 0;

	for (const struct storage_pool *pool = storage_first(storage_of(call)); pool;
	     pool = storage_next(pool))
		n += pool->active == active;
	return n;
}

static int put_names(struct rpc_call *call, int max, bool active, w_strs *ret, struct error *err)
{
	int r = 0;

	if (max < 0 || max > W_LIST_MAX)
		return error_set(err, -EINVAL, "%s: %d names are out of range", call->proc->name,
				 max);
	ret->texts.texts_val = calloc((size_t)max + 1, sizeof(*ret->texts.texts_val));
	if (!ret->texts.texts_val)
		return error_set(err, -ENOMEM, "no memory for the answer");
	for (const struct storage_pool *pool = storage_first(storage_of(call)); r >= 0 && pool;
	     pool = storage_next(pool))
		if (pool->active == active && ret->texts.texts_len < (u_int)max)
			r = rpc_put_text(&ret->texts.texts_val[ret->texts.texts_len++],
					 pool->def->name, err);
	return r;
}

int rpc_pool_num_active(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	((w_int *)ret)->value = count_pools(call, true);
	return 0;
}

int rpc_pool_num_defined(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	((w_int *)ret)->value = count_pools(call, false);
	return 0;
}

int rpc_pool_list_active(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	return put_names(call, ((const w_int *)args)->value, true, ret, err);
}

int rpc_pool_list_defined(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	return put_names(call, ((const w_int *)args)->value, false, ret, err);
}

int rpc_pool_num_volumes(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	const struct storage_pool *pool = pool_of(call, args, err);

	if (!pool || need_active(pool, err) < 0)
		return err->code;
	((w_int *)ret)->value = (int)pool->n_volumes;
	return 0;
}

int rpc_pool_list_volumes(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	const w_pool_int *a = args;
	const struct storage_pool *pool = pool_of(call, &a->pool, err);
	w_strs *list = ret;
	size_t n;
	int r = 0;

	if (!pool || need_active(pool, err) < 0)
		return err->code;
	n = MIN(pool->n_volumes, (size_t)MAX(a->value, 0));
	list->texts.texts_val = calloc(n + 1, sizeof(*list->texts.texts_val));
	if (!list->texts.texts_val)
		return error_set(err, -ENOMEM, "no memory for the answer");
	for (size_t i = 0; r >= 0 && i < n; i++)
		r = rpc_put_text(&list->texts.texts_val[list->texts.texts_len++],
				 pool->volumes[i].name, err);
	return r;
}

int rpc_pool_list_all_volumes(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	const w_pool_list_args *a = args;
	const struct storage_pool *pool = pool_of(call, &a->pool, err);
	w_vols *list = ret;
	int r = 0;

	if (!pool || rpc_check_flags(call, a->flags, 0, err) < 0 || need_active(pool, err) < 0)
		return err->code;
	list->count = (u_int)pool->n_volumes;
	if (!a->need_results)
		return 0;
	list->vols.vols_val = calloc(pool->n_volumes + 1, sizeof(*list->vols.vols_val));
	if (!list->vols.vols_val)
		return error_set(err, -ENOMEM, "no memory for the answer");
	for (size_t i = 0; r >= 0 && i < pool->n_volumes; i++)
		r = put_volume(&list->vols.vols_val[list->vols.vols_len++], pool, &pool->volumes[i],
			       err);
	return r;
}

/* --- looking up --- */

static int found_pool(struct rpc_call *call, const struct storage_pool *pool, const char *kind,
		      const char *what, void *ret, struct error *err)
{
	call->what = RPC_OBJECT_POOL;
	if (!pool)
		return error_set(err, -ENOENT, "no storage pool with matching %s '%.200s'", kind,
				 what);
	return put_pool(ret, pool, err);
}

int rpc_pool_lookup_by_name(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	const char *name = ((const w_str *)args)->text;

	return found_pool(call, storage_by_name(storage_of(call), name), "name", name, ret, err);
}

int rpc_pool_lookup_by_uuid(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	const uint8_t *uuid = (const uint8_t *)((const w_uuid_arg *)args)->uuid;
	char text[UUID_TEXT_BYTES];

	uuid_format(uuid, text);
	return found_pool(call, storage_by_uuid(storage_of(call), uuid), "uuid", text, ret, err);
}

int rpc_pool_lookup_by_volume(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	const char *name = ((const w_vol_arg *)args)->vol.pool;

	return found_pool(call, storage_by_name(storage_of(call), name), "name", name, ret, err);
}

int rpc_pool_lookup_by_path(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	const char *path = ((const w_str *)args)->text;

	return found_pool(call, storage_by_path(storage_of(call), path), "target path", path, ret,
			  err);
}

int rpc_volume_lookup_by_name(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	const w_pool_str *a = args;
	const struct storage_pool *pool = pool_of(call, &a->pool, err);
	const struct storage_volume *volume;

	if (!pool || need_active(pool, err) < 0)
		return err->code;
	call->what = RPC_OBJECT_VOLUME;
	volume = storage_volume(pool, a->text);
	if (!volume)
		return error_set(err, -ENOENT, "no storage vol with matching name '%.200s'",
				 a->text);
	return put_volume(ret, pool, volume, err);
}

/* A volume's key is its path. */
int rpc_volume_lookup_by_path(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	const char *path = ((const w_str *)args)->text;
	struct storage_pool *pool = NULL;
	const struct storage_volume *volume = storage_volume_by_path(storage_of(call), path, &pool);

	call->what = RPC_OBJECT_VOLUME;
	if (!volume)
		return error_set(err, -ENOENT, "no storage vol with matching path '%.200s'", path);
	return put_volume(ret, pool, volume, err);
}

/* --- facts --- */

int rpc_pool_get_info(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	const struct storage_pool *pool = pool_of(call, args, err);
	w_pool_info *info = ret;

	if (!pool)
		return err->code;
	info->state = pool->active ? POOL_RUNNING : POOL_INACTIVE;
	info->capacity = pool->state.capacity;
	info->allocation = pool->state.allocation;
	info->available = pool->state.available;
	return 0;
}

int rpc_pool_get_xml(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	const w_pool_flags *a = args;
	const struct storage_pool *pool = pool_of(call, &a->pool, err);

	if (!pool || rpc_check_flags(call, a->flags, 1, err) < 0)
		return err->code;
	return rpc_take_text(&((w_str *)ret)->text, storage_pool_xml(pool), err);
}

int rpc_pool_get_autostart(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	const struct storage_pool *pool = pool_of(call, args, err);

	if (!pool)
		return err->code;
	((w_int *)ret)->value = pool->autostart;
	return 0;
}

int rpc_pool_is_active(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	const struct storage_pool *pool = pool_of(call, args, err);

	if (!pool)
		return err->code;
	((w_int *)ret)->value = pool->active;
	return 0;
}

int rpc_pool_is_persistent(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	const struct storage_pool *pool = pool_of(call, args, err);

	if (!pool)
		return err->code;
	((w_int *)ret)->value = pool->persistent;
	return 0;
}

static int put_volume_info(struct rpc_call *call, const w_vol *arg, bool physical, w_vol_info *info,
			   struct error *err)
{
	const struct storage_volume *volume = volume_of(call, arg, err);

	if (!volume)
		return err->code;
	info->type = VOLUME_FILE;
	info->capacity = volume->capacity;
	info->allocation =
		physical ? (uint64_t)volume->st.st_size : (uint64_t)volume->st.st_blocks * 512;
	return 0;
}

int rpc_volume_get_info(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	return put_volume_info(call, &((const w_vol_arg *)args)->vol, false, ret, err);
}

int rpc_volume_get_info_flags(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	const w_vol_flags *a = args;
	w_vol_info_flags *info = ret;
	w_vol_info plain = {0};
	int r = rpc_check_flags(call, a->flags, VOLUME_PHYSICAL, err);

	if (r >= 0)
		r = put_volume_info(call, &a->vol, a->flags & VOLUME_PHYSICAL, &plain, err);
	info->type = plain.type;
	info->capacity = plain.capacity;
	info->allocation = plain.allocation;
	info->flags = a->flags;
	return r;
}

int rpc_volume_get_xml(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	const w_vol_flags *a = args;
	const struct storage_volume *volume = volume_of(call, &a->vol, err);

	if (!volume || rpc_check_flags(call, a->flags, 0, err) < 0)
		return err->code;
	return rpc_take_text(&((w_str *)ret)->text, storage_volume_xml(volume), err);
}

int rpc_volume_get_path(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	const struct storage_volume *volume = volume_of(call, &((const w_vol_arg *)args)->vol, err);

	return volume ? rpc_put_text(&((w_str *)ret)->text, volume->path, err) : err->code;
}

/* --- jobs on pools --- */

int rpc_pool_define(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	const w_str_flags *a = args;

	if (rpc_check_flags(call, a->flags, 1, err) < 0)
		return err->code;
	storage_define(storage_of(call), a->text, false, later(call, done_pool));
	return RPC_LATER;
}

int rpc_pool_create_xml(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	const w_str_flags *a = args;

	if (rpc_check_flags(call, a->flags, 0, err) < 0)
		return err->code;
	storage_define(storage_of(call), a->text, true, later(call, done_pool));
	return RPC_LATER;
}

int rpc_pool_create(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	const w_pool_flags *a = args;
	struct storage_pool *pool = pool_of(call, &a->pool, err);

	if (!pool ||
	    rpc_check_flags(call, a->flags,
			    START_WITH_BUILD | START_BUILD_OVERWRITE | START_BUILD_NO_OVERWRITE,
			    err) < 0)
		return err->code;
	storage_start(pool, a->flags & START_WITH_BUILD, later(call, done_plain));
	return RPC_LATER;
}

typedef void pool_job(struct storage_pool *pool, struct storage_done *done);

static int start_job(struct rpc_call *call, void *args, pool_job *job, struct error *err)
{
	struct storage_pool *pool = pool_of(call, args, err);

	if (!pool)
		return err->code;
	job(pool, later(call, done_plain));
	return RPC_LATER;
}

int rpc_pool_build(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	return start_job(call, args, storage_build, err);
}

int rpc_pool_destroy(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	return start_job(call, args, storage_stop, err);
}

int rpc_pool_delete(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	return start_job(call, args, storage_delete, err);
}

int rpc_pool_undefine(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	return start_job(call, args, storage_undefine, err);
}

int rpc_pool_refresh(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	return start_job(call, args, storage_refresh, err);
}

int rpc_pool_set_autostart(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	const w_pool_int *a = args;
	struct storage_pool *pool = pool_of(call, &a->pool, err);

	if (!pool)
		return err->code;
	storage_set_autostart_of(pool, a->value != 0, later(call, done_plain));
	return RPC_LATER;
}

/* --- jobs on volumes --- */

int rpc_volume_create(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	const w_pool_str_flags *a = args;
	struct storage_pool *pool = pool_of(call, &a->pool, err);

	if (!pool || rpc_check_flags(call, a->flags, 0, err) < 0)
		return err->code;
	storage_volume_create(pool, a->text, NULL, later(call, done_volume));
	return RPC_LATER;
}

int rpc_volume_create_from(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	const w_pool_str_vol_flags *a = args;
	const struct storage_volume *from = volume_of(call, &a->vol, err);
	struct storage_pool *pool;

	if (!from || rpc_check_flags(call, a->flags, 2, err) < 0)
		return err->code;
	storage_unref(call->pool);
	call->pool = NULL;
	pool = pool_of(call, &a->pool, err);
	if (!pool)
		return err->code;
	if (!str_eq(from->format, "raw"))
		return error_set(err, -EOPNOTSUPP,
				 "'%s' is a %s image, which cannot be copied here yet", from->path,
				 from->format);
	storage_volume_create(pool, a->text, from->path, later(call, done_volume));
	return RPC_LATER;
}

int rpc_volume_delete(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	const w_vol_flags *a = args;
	const struct storage_volume *volume = volume_of(call, &a->vol, err);

	if (!volume || rpc_check_flags(call, a->flags, 0, err) < 0)
		return err->code;
	storage_volume_delete(call->pool, volume->name, later(call, done_plain));
	return RPC_LATER;
}

int rpc_volume_resize(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	const w_vol_u64_flags *a = args;
	const struct storage_volume *volume = volume_of(call, &a->vol, err);

	if (!volume || rpc_check_flags(call, a->flags,
				       RESIZE_ALLOCATE | RESIZE_DELTA | RESIZE_SHRINK, err) < 0)
		return err->code;
	storage_volume_resize(call->pool, volume->name, a->value, a->flags & RESIZE_SHRINK,
			      a->flags & RESIZE_DELTA, a->flags & RESIZE_ALLOCATE,
			      later(call, done_plain));
	return RPC_LATER;
}

static int wipe(struct rpc_call *call, const w_vol *arg, struct error *err)
{
	const struct storage_volume *volume = volume_of(call, arg, err);

	if (!volume)
		return err->code;
	storage_volume_wipe(call->pool, volume->name, later(call, done_plain));
	return RPC_LATER;
}

int rpc_volume_wipe(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	return wipe(call, &((const w_vol_flags *)args)->vol, err);
}

int rpc_volume_wipe_pattern(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	const w_vol_uint_flags *a = args;

	if (a->value != WIPE_ZERO)
		return error_set(err, -EOPNOTSUPP,
				 "volumes are wiped with zeroes: the algorithm %u is not there",
				 a->value);
	return wipe(call, &a->vol, err);
}

/* --- streams --- */

static int open_stream(struct rpc_call *call, const w_vol_range *a, bool upload, struct error *err)
{
	const struct storage_volume *volume = volume_of(call, &a->vol, err);
	int fd;

	if (!volume)
		return err->code;
	if (a->flags & STREAM_SPARSE)
		return error_set(err, -EOPNOTSUPP, "sparse streams are not supported yet");
	if (rpc_check_flags(call, a->flags, 0, err) < 0)
		return err->code;
	if (a->offset > INT64_MAX || a->length > INT64_MAX)
		return error_set(err, -EINVAL, "the range is too large");
	fd = open(volume->path,
		  (upload ? O_WRONLY : O_RDONLY) | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return error_set_errno(err, -errno, "cannot open the volume '%s'", volume->path);
	return rpc_stream_open_file(call, fd, a->offset, a->length, upload, err);
}

int rpc_volume_upload(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	return open_stream(call, args, true, err);
}

int rpc_volume_download(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	return open_stream(call, args, false, err);
}

int rpc_pool_capabilities(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	return rpc_put_text(&((w_str *)ret)->text,
			    "<storagepoolCapabilities>\n"
			    "  <pool type='dir' supported='yes'>\n"
			    "    <volOptions>\n"
			    "      <defaultFormat type='raw'/>\n"
			    "      <enum name='targetFormatType'>\n"
			    "        <value>raw</value>\n"
			    "      </enum>\n"
			    "    </volOptions>\n"
			    "  </pool>\n"
			    "</storagepoolCapabilities>\n",
			    err);
}
