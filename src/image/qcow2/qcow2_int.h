/*
 * Inside of the qcow2 format. Specification: "Qcow2 Image File Format", docs/interop/qcow2 of the QEMU project; section names in
 * these files are its own.
 *
 * Memory and threads. One mutex, `lock`, guards everything that changes: tables, cache, allocator. It is held for memory accesses
 * only, never across I/O, so channels take it on their loops. What must read or write metadata blocks: loads go to the image's
 * pool of workers, several at once; everything that writes goes to `worker`, a pool of one thread, and is so serialised for each
 * image. Offline changes (snapshots, resizing, checks) run in the caller's thread, with no channel open.
 *
 * What is where on its way to the disk. Changes of tables stay in memory until a commit (qcow2_commit.c), which writes them in
 * an order that leaves a good image behind whenever it is cut off:
 *   1. refcounts that were raised, the first contents of new tables, and the data itself; then the file is made stable;
 *   2. L2 and L1 entries that point to these; then the file is made stable;
 *   3. only then do clusters that nothing points to any more become free, when no request that saw them is still under way.
 * A cut between leaves clusters whose refcount is too high: lost space, nothing else.
 */
#pragma once

#include <pthread.h>
#include <string.h>

#include "base/endian.h"
#include "image/image_admin.h"
#include "image/image_impl.h"

#define QCOW2_MAGIC            0x514649fbu
#define QCOW2_HEADER_V2_BYTES  72u
#define QCOW2_HEADER_V3_BYTES  104u
#define QCOW2_HEADER_OUR_BYTES 112u
#define QCOW2_MAX_CLUSTER_BITS 21u
#define QCOW2_MAX_NAME         1023u
#define QCOW2_MAX_EXTENSIONS   64u

/* Of what an image may ask for in memory; QEMU's bounds as well. */
#define QCOW2_MAX_L1_BYTES       (32u << 20)
#define QCOW2_MAX_REFT_BYTES     (8u << 20)
#define QCOW2_MAX_SNAPSHOTS      65536u
#define QCOW2_MAX_SNAPSHOT_BYTES (64u << 20)

#define QCOW2_INCOMPAT_DIRTY       BIT(0)
#define QCOW2_INCOMPAT_CORRUPT     BIT(1)
#define QCOW2_INCOMPAT_DATA_FILE   BIT(2)
#define QCOW2_INCOMPAT_COMPRESSION BIT(3)
#define QCOW2_INCOMPAT_EXT_L2      BIT(4)
#define QCOW2_INCOMPAT_KNOWN       0x1fu
#define QCOW2_COMPAT_LAZY          BIT(0)
#define QCOW2_AUTOCLEAR_BITMAPS    BIT(0)
#define QCOW2_AUTOCLEAR_RAW_DATA   BIT(1)

#define QCOW2_ENTRY_MINE       BIT(63) /* refcount is exactly one */
#define QCOW2_ENTRY_COMPRESSED BIT(62)
#define QCOW2_ENTRY_ZERO       BIT(0)
#define QCOW2_OFFSET_MASK      0x00fffffffffffe00ULL
#define QCOW2_STD_RESERVED     0x3f000000000001feULL
#define QCOW2_L1_RESERVED      0x7f000000000001ffULL

#define QCOW2_SUBCLUSTERS 32u

/* --- header (qcow2_header.c) --- */

struct qcow2_extension { /* one that we only keep */
	uint32_t type, len;
	uint8_t *data;
};

struct qcow2_header {
	uint32_t version, cluster_bits, crypt_method, l1_size, reft_clusters, n_snapshots;
	uint32_t refcount_order, header_bytes;
	uint64_t size, l1_offset, reft_offset, snapshots_offset;
	uint64_t incompat, compat, autoclear;
	uint8_t compression;
	char *backing_name, *backing_format, *data_file; /* NULL: none */
	uint8_t *more;                                   /* header fields behind those we know */
	uint32_t n_more;
	bool has_bitmaps;
	uint32_t n_bitmaps;
	uint64_t bitmaps_bytes, bitmaps_offset;
	uint64_t crypto_offset, crypto_bytes;
	struct qcow2_extension extensions[QCOW2_MAX_EXTENSIONS];
	unsigned n_extensions;
};

/* buf: the file's first `len` bytes, of which the first cluster is looked at. Messages name the field. file_bytes bounds
 * offsets. inspect: images marked corrupt or dirty are fine. */
int qcow2_header_parse(const uint8_t *buf, size_t len, uint64_t file_bytes, const char *path,
		       struct qcow2_header *ret, struct error *err);
/* Fills the first cluster (zeroed by this). */
int qcow2_header_encode(const struct qcow2_header *h, uint8_t *buf, size_t cluster_bytes,
			const char *path, struct error *err);
void qcow2_header_fini(struct qcow2_header *h);

static inline uint32_t qcow2_get32(const void *p)
{
	be32 v;

	memcpy(&v, p, sizeof(v));
	return be32_get(v);
}
static inline uint64_t qcow2_get64(const void *p)
{
	be64 v;

	memcpy(&v, p, sizeof(v));
	return be64_get(v);
}
static inline void qcow2_put32(void *p, uint32_t value)
{
	be32 v = be32_of(value);

	memcpy(p, &v, sizeof(v));
}
static inline void qcow2_put64(void *p, uint64_t value)
{
	be64 v = be64_of(value);

	memcpy(p, &v, sizeof(v));
}

/* --- the struct --- */

enum qcow2_block_kind {
	QCOW2_BLOCK_REF,
	QCOW2_BLOCK_L2,
};

/* A piece (`unit` bytes) of a refcount block or L2 table in memory. */
struct qcow2_block {
	uint64_t offset; /* in the file */
	enum qcow2_block_kind kind;
	bool loading, dirty, writing;
	unsigned pins; /* requests that will change it */
	struct qcow2_block *hash_next;
	struct qcow2_block *newer, *older; /* by last use */
	uint8_t *data;
};

#define QCOW2_HASH_SIZE 1024u

struct qcow2_run {
	uint64_t cluster, count;
	bool fresh; /* never written to: reads as zeroes */
};

#define QCOW2_MAX_RESERVE 64u

/* Guest clusters to which a request is writing data for the first time; others that want to change them wait. */
struct qcow2_claim {
	uint64_t first, count; /* guest clusters */
	struct qcow2_claim *next, **prev;
	struct qcow2_op *waiters;
};

/* Clusters whose last reference is gone. */
struct qcow2_frees {
	struct qcow2_run *runs;
	size_t n, max;
};

/* A table of big-endian 64-bit entries that is in memory as a whole: L1, the refcount table. */
struct qcow2_table {
	uint64_t *entries;
	uint32_t n;
	uint64_t offset; /* in the file */
	uint8_t *dirty;  /* a byte for each unit */
	unsigned n_dirty;
};

struct qcow2 {
	/* [const after open] */
	struct image_node *node;
	struct image_file *file, *data; /* the same but with an external data file */
	struct image_pool *worker;
	unsigned cluster_bits, unit_bits, entry_bits, l2_bits, sub_bits, ref_bits;
	uint32_t cluster_bytes, unit; /* unit: of metadata I/O, min(cluster, 4 KiB) */
	uint64_t refcount_max;
	bool readonly, ext_l2, has_data_file, data_raw, has_backing, zero_flag;
	char *data_path, *backing_full;

	pthread_mutex_t lock;
	pthread_cond_t loaded; /* a block is not loading any more */
	/* All else: [lock], but that offline changes need none. */
	struct qcow2_header h;
	struct qcow2_table l1, reft;
	uint64_t file_end; /* no valid cluster is at or behind it */
	bool damaged;      /* something was found that cannot be */
	char damage[160];

	struct qcow2_block *hash[QCOW2_HASH_SIZE];
	struct qcow2_block *newest, *oldest;
	unsigned n_blocks, max_blocks, n_dirty[2];

	uint64_t *meta; /* clusters that hold L2 tables and refcount blocks, + 1; a hash table */
	size_t meta_size, meta_used;

	struct qcow2_run reserve[QCOW2_MAX_RESERVE]; /* refcount one, and nobody's yet */
	unsigned n_reserve;
	uint64_t reserve_want; /* clusters, of the next refill */
	uint64_t free_hint;    /* no cluster below it is free */
	uint64_t high_water;   /* all clusters from it are fresh */
	uint64_t comp_next,
		comp_left; /* [worker] the rest of clusters that compressed data goes to */

	struct qcow2_frees dropped;  /* since the last commit */
	struct qcow2_frees limbo;    /* dropped on disk as well; requests may still find them */
	struct qcow2_frees draining; /* requests of the last epoch may still read or write them */
	unsigned epoch;              /* its parity says which in_flight counts new requests */
	unsigned in_flight[2];
	struct qcow2_claim *claims;
	uint64_t commits_started, commits_done;
	int commit_result;
	bool commit_running;
};

static inline struct qcow2 *qcow2_of(const struct image_node *node)
{
	return node->state;
}
static inline uint64_t qcow2_cluster_of(const struct qcow2 *q, uint64_t offset)
{
	return offset >> q->cluster_bits;
}
static inline uint64_t qcow2_in_cluster(const struct qcow2 *q, uint64_t offset)
{
	return offset & (q->cluster_bytes - 1);
}
static inline uint64_t qcow2_clusters_for(const struct qcow2 *q, uint64_t bytes)
{
	return (bytes >> q->cluster_bits) + (qcow2_in_cluster(q, bytes) != 0);
}

/* Remembers the first one; requests that meet damage fail with -EIO. Lock held. Returns -EIO. */
int qcow2_damage_locked(struct qcow2 *q, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

/* --- opening (qcow2_open.c) --- */

/* Reads tables anew after an offline change moved them. */
int qcow2_meta_rebuild(struct qcow2 *q);
int qcow2_meta_add_locked(struct qcow2 *q, uint64_t cluster);
void qcow2_meta_remove_locked(struct qcow2 *q, uint64_t cluster);
/* Must guest data never be written there? */
bool qcow2_is_meta_locked(const struct qcow2 *q, uint64_t cluster);
/* Writes the changed fields of h, all of which are in the file's first sector, and makes it stable. */
int qcow2_header_write(struct qcow2 *q, const struct qcow2_header *h);

int qcow2_table_read(struct qcow2 *q, struct qcow2_table *t, uint64_t offset, uint32_t n);
void qcow2_table_fini(struct qcow2_table *t);
void qcow2_table_set_locked(struct qcow2 *q, struct qcow2_table *t, uint32_t index, uint64_t value);
/* A whole table, padded with zeroes to its clusters, written to where it will be. */
int qcow2_table_write(struct qcow2 *q, const uint64_t *entries, uint32_t n, uint64_t offset);

/* --- metadata blocks (qcow2_cache.c) --- */

/* The block at offset (a multiple of unit) if it is in memory. */
struct qcow2_block *qcow2_block_find_locked(struct qcow2 *q, uint64_t offset);
/* Loads it if need be, and returns with the lock held and *ret in memory; on failure without the lock. Blocking. */
int qcow2_block_hold(struct qcow2 *q, uint64_t offset, enum qcow2_block_kind kind,
		     struct qcow2_block **ret);
int qcow2_block_load(struct qcow2 *q, uint64_t offset, enum qcow2_block_kind kind);
void qcow2_block_dirty_locked(struct qcow2 *q, struct qcow2_block *b);
void qcow2_cache_drop(struct qcow2 *q, uint64_t offset,
		      uint64_t bytes); /* forgets clean and dirty ones; offline */
void qcow2_cache_free(struct qcow2 *q);
/* Are there so many changes in memory that a commit must come first? */
bool qcow2_cache_full_locked(const struct qcow2 *q);

/* --- refcounts (qcow2_ref.c); blocking, on the worker or offline --- */

uint64_t qcow2_ref_get_entry(const uint8_t *block, unsigned order, uint64_t index);
void qcow2_ref_set_entry(uint8_t *block, unsigned order, uint64_t index, uint64_t value);
/* The refcount of a cluster, 0 where there is no block. */
int qcow2_ref_read(struct qcow2 *q, uint64_t cluster, uint64_t *ret);
/* Adds +1 or -1 to each. -ERANGE: a refcount would get too large; what was changed stays so. */
int qcow2_ref_change(struct qcow2 *q, uint64_t cluster, uint64_t count, int delta);
/* Finds free clusters, in a row, at or behind `from`: at least one and at most want; raises their refcounts to one. */
int qcow2_ref_take(struct qcow2 *q, uint64_t from, uint64_t want, struct qcow2_run *ret);
/* As many as asked for, in a row. */
int qcow2_ref_take_exact(struct qcow2 *q, uint64_t count, uint64_t *ret_cluster);

/* --- allocation (qcow2_alloc.c) --- */

/* Takes up to n clusters in a row from the reserve; 0: it is empty. */
uint64_t qcow2_alloc_locked(struct qcow2 *q, uint64_t n, struct qcow2_run *ret);
int qcow2_reserve_refill(struct qcow2 *q); /* blocking; worker or offline */
int qcow2_reserve_return(struct qcow2 *q); /* at the end */
void qcow2_drop_locked(struct qcow2 *q, uint64_t cluster, uint64_t count);
/* What an L2 entry points to. */
void qcow2_drop_entry_locked(struct qcow2 *q, uint64_t entry);
/* Frees what is in limbo, if nobody uses it any more; blocking; worker or offline. */
int qcow2_limbo_free(struct qcow2 *q);
void qcow2_frees_move(struct qcow2_frees *from, struct qcow2_frees *to);
int qcow2_frees_add(struct qcow2_frees *f, uint64_t cluster, uint64_t count);

/* --- mapping (qcow2_map.c) --- */

enum qcow2_kind {
	QCOW2_NONE, /* what the backing image has */
	QCOW2_ZERO,
	QCOW2_DATA,
	QCOW2_COMPRESSED,
};

struct qcow2_map {
	enum qcow2_kind kind;
	bool mine; /* DATA, and ZERO that has a cluster: may be written in place */
	uint64_t
		host; /* DATA: of the first byte asked for; ZERO: as DATA or 0; COMPRESSED: of the data */
	uint64_t bytes;      /* that are alike and, for DATA, in a row */
	uint64_t comp_bytes; /* COMPRESSED: at most, from host */
	uint64_t entry;      /* the L2 entry of the first cluster */
};

/* -EAGAIN: the block at *ret_load must be loaded first. -EIO: damage. */
int qcow2_map_locked(struct qcow2 *q, uint64_t guest, uint64_t bytes, struct qcow2_map *ret,
		     uint64_t *ret_load);
/* The L2 block of a guest offset, for a change. -EAGAIN as above; -ENOENT: no L2 table of our own yet. */
int qcow2_l2_locked(struct qcow2 *q, uint64_t guest, struct qcow2_block **ret, uint64_t *ret_load);
/* Makes one, and loads the block of guest. Blocking; worker or offline. */
int qcow2_l2_make(struct qcow2 *q, uint64_t guest);
uint64_t qcow2_entry_get(const struct qcow2 *q, const struct qcow2_block *b, uint64_t guest,
			 uint64_t *ret_bitmap);
void qcow2_entry_set_locked(struct qcow2 *q, struct qcow2_block *b, uint64_t guest, uint64_t entry,
			    uint64_t bitmap);
/* Guest bytes from `guest` to the end of its L2 block. */
uint64_t qcow2_block_span(const struct qcow2 *q, uint64_t guest);
/* Where a compressed cluster's data is. */
void qcow2_entry_compressed(const struct qcow2 *q, uint64_t entry, uint64_t *ret_host,
			    uint64_t *ret_bytes);
int qcow2_node_map(struct image_node *node, uint64_t offset, uint64_t bytes,
		   struct image_extent *ret);

/* --- commit (qcow2_commit.c) --- */

/* Makes everything that was linked before stable. Blocking; worker or offline. */
int qcow2_commit(struct qcow2 *q);
bool qcow2_uncommitted_locked(const struct qcow2 *q);

/* --- requests (qcow2_io.c, qcow2_write.c) --- */

int qcow2_channel_open(struct image_node *node, struct image_channel *ch, struct error *err);
void qcow2_channel_close(struct image_node *node, struct image_channel *ch);
void qcow2_submit(struct image_node *node, struct image_channel *ch, struct image_req *req);

/* --- compressed clusters (qcow2_codec.c); any thread --- */

/* Packs a cluster into less than max bytes: how many, 0 when it does not get that small, or a negative errno. */
int64_t qcow2_pack(uint8_t compression, const void *data, size_t bytes, void *packed, size_t max);
/* -EIO when it is damaged or would not give exactly `bytes`. */
int qcow2_unpack(uint8_t compression, const void *packed, size_t packed_bytes, void *data,
		 size_t bytes);
/* Reads and unpacks the cluster of an entry; buf has cluster_bytes. Blocking. */
int qcow2_read_compressed(struct qcow2 *q, const struct qcow2_map *map, uint8_t *buf);
/* Stores packed data for a guest cluster and links it; worker. */
int qcow2_comp_release(struct qcow2 *q); /* the space that was begun; worker or at the end */
int qcow2_write_compressed(struct qcow2 *q, uint64_t guest, const void *packed, size_t bytes);

/* --- offline changes --- */

int qcow2_create(const struct image_create_config *config, struct image_file *file,
		 struct error *err);
void qcow2_describe(const struct image_node *node, struct image_details *ret);
int qcow2_resize(struct image_node *node, uint64_t bytes, struct error *err);
int qcow2_set_backing(struct image_node *node, const char *path, const char *format,
		      struct error *err);
int qcow2_preallocate(struct image_node *node, uint64_t offset, uint64_t bytes,
		      enum image_prealloc how, struct error *err);
int qcow2_check(struct image_node *node, const struct image_check_config *config,
		struct image_check_result *ret, struct error *err);
int qcow2_snapshot_list(struct image_node *node, struct image_snapshot **ret, size_t *ret_n,
			struct error *err);
int qcow2_snapshot_create(struct image_node *node, const char *name, struct error *err);
int qcow2_snapshot_apply(struct image_node *node, const char *name, struct error *err);
int qcow2_snapshot_delete(struct image_node *node, const char *name, struct error *err);
