/*
 * All blocks of a machine, by physical address and mode bits; links between them; and the code memory, in two halves. [soft_jit.lock]
 *
 * A half that is full is left, with all that is known of its blocks; it is filled again when the other one is full and every vCPU has been
 * between blocks since: vCPUs publish the epoch that they have seen there.
 *
 * A page of guest code that was written loses its blocks: jumps to them lead to C again, and those who have them in a jump cache find a
 * jump at their beginning. Both are single aligned stores into code that others may be executing.
 */
#include "vm/accel/soft/jit/jit_int.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK_BYTES (256u << 10)

struct jit_chunk {
	struct jit_chunk *next;
	_Alignas(16) uint8_t bytes[CHUNK_BYTES];
};

void *arena_alloc(struct jit_arena *arena, size_t bytes)
{
	struct jit_chunk *chunk = arena->chunks;
	void *p;

	bytes = (bytes + 15) & ~(size_t)15;
	if (bytes > CHUNK_BYTES)
		return NULL;
	if (chunk == NULL || CHUNK_BYTES - arena->used < bytes) {
		chunk = malloc(sizeof(*chunk));
		if (chunk == NULL)
			return NULL;
		chunk->next = arena->chunks;
		arena->chunks = chunk;
		arena->used = 0;
	}
	p = chunk->bytes + arena->used;
	arena->used += bytes;
	memset(p, 0, bytes);
	return p;
}

void arena_free(struct jit_arena *arena)
{
	while (arena->chunks != NULL) {
		struct jit_chunk *next = arena->chunks->next;

		free(arena->chunks);
		arena->chunks = next;
	}
	arena->used = 0;
}

static unsigned hash(gpa_t page, unsigned off, unsigned key)
{
	uint64_t mixed = ((page >> 12) * 4096 + off) * 0x9e3779b97f4a7c15ULL + key * 0x85ebca6bULL;

	return (unsigned)(mixed >> 32) & (JIT_HASH_SIZE - 1);
}

static uint64_t id_of(gpa_t page, unsigned off, unsigned key)
{
	return (page + off) | (uint64_t)key << 56;
}

static void bucket_update(struct jit_bucket *bucket)
{
	const struct jit_block *block = bucket->first;

	bucket->resumed = block != NULL ? block->resumed : NULL;
	bucket->id = block != NULL ? id_of(block->page->gpa, block->off, block->key) : 0;
}

const uint8_t *jit_cache_code(struct soft_jit *jit, gpa_t page, unsigned off, unsigned key)
{
	const struct jit_bucket *bucket = &jit->blocks[hash(page, off, key)];

	return bucket->id == id_of(page, off, key) ? bucket->resumed : NULL;
}

struct jit_block *jit_cache_find(struct soft_jit *jit, gpa_t page, unsigned off, unsigned key)
{
	struct jit_block *block = jit->blocks[hash(page, off, key)].first;

	while (block != NULL &&
	       (block->off != off || block->key != key || block->page->gpa != page))
		block = block->hash_next;
	return block;
}

void jit_cache_add(struct soft_jit *jit, struct jit_block *block)
{
	struct jit_bucket *bucket = &jit->blocks[hash(block->page->gpa, block->off, block->key)];

	block->hash_next = bucket->first;
	bucket->first = block;
	bucket_update(bucket);
	block->page_next = block->page->blocks;
	block->page->blocks = block;
}

static void set_disp(struct soft_jit *jit, uint8_t *disp, const uint8_t *target)
{
	uint32_t value = (uint32_t)(target - (disp + 4 + jit->emit.exec));

	__atomic_store_n((uint32_t *)(void *)disp, value, __ATOMIC_RELEASE);
}

void jit_cache_link(struct soft_jit *jit, struct jit_link *link, struct jit_block *to)
{
	if (link->to != NULL || link->from->dead || to->dead)
		return;
	link->to = to;
	link->next_in = to->in;
	to->in = link;
	set_disp(jit, link->disp, link->polled ? to->polled : to->entry);
}

static void forget(struct soft_jit *jit, struct jit_block *block)
{
	struct jit_bucket *bucket = &jit->blocks[hash(block->page->gpa, block->off, block->key)];
	struct jit_block **at = &bucket->first;

	while (*at != block)
		at = &(*at)->hash_next;
	*at = block->hash_next;
	bucket_update(bucket);
	block->dead = true;
	for (struct jit_link *link = block->in; link != NULL; link = link->next_in) {
		set_disp(jit, link->disp, link->unlinked);
		link->to = NULL;
	}
	block->in = NULL;
	if (block->n_insns != 0) {
		uint64_t code;
		uint32_t disp = (uint32_t)(jit->stubs.dead - (block->indirect + 5));

		memcpy(&code, block->indirect_rw, 8);
		code = (code & ~0xffffffffffULL) | 0xe9 | (uint64_t)disp << 8;
		__atomic_store_n((uint64_t *)(void *)block->indirect_rw, code, __ATOMIC_RELEASE);
	}
	jit->n_invalidated++;
}

void jit_cache_drop_page(struct soft_jit *jit, struct jit_page *page)
{
	while (page->blocks != NULL) {
		struct jit_block *block = page->blocks;

		page->blocks = block->page_next;
		forget(jit, block);
	}
}

static struct jit_page *find_page(struct soft_jit *jit, gpa_t gpa)
{
	struct jit_page *page = jit->pages[hash(gpa, 0, 0)];

	while (page != NULL && page->gpa != gpa)
		page = page->hash_next;
	return page;
}

struct jit_page *jit_cache_page(struct soft_jit *jit, gpa_t gpa, uint32_t generation)
{
	struct jit_page *page = find_page(jit, gpa);

	if (page != NULL) {
		if (page->generation != generation)
			jit_cache_drop_page(jit, page);
		page->generation = generation;
		return page;
	}
	page = arena_alloc(&jit->arena[jit->half], sizeof(*page));
	if (page == NULL)
		return NULL;
	page->gpa = gpa;
	page->generation = generation;
	page->hash_next = jit->pages[hash(gpa, 0, 0)];
	jit->pages[hash(gpa, 0, 0)] = page;
	return page;
}

void jit_cache_written(struct soft *soft, gpa_t gpa)
{
	struct soft_jit *jit = soft->jit;
	struct jit_page *page;

	pthread_mutex_lock(&jit->lock);
	page = find_page(jit, gpa & ~4095ULL);
	if (page != NULL)
		jit_cache_drop_page(jit, page);
	pthread_mutex_unlock(&jit->lock);
}

bool jit_cache_turn(struct soft_jit *jit)
{
	unsigned epoch = atomic_load(&jit->epoch), next = 1 - jit->half;
	bool quiet = true;
	size_t offset;

	for (unsigned n = 0; n < ACCEL_MAX_VCPUS; n++) {
		struct soft_cpu *cpu = jit->soft->cpus[n];

		if (cpu == NULL || cpu->jit == NULL || atomic_load(&cpu->jit->epoch) >= epoch)
			continue;
		soft_request(cpu, REQ_SELF);
		quiet = false;
	}
	if (!quiet)
		return false;
	arena_free(&jit->arena[next]);
	memset(jit->blocks, 0, sizeof(jit->blocks));
	memset(jit->pages, 0, sizeof(jit->pages));
	jit->half = next;
	offset = jit->stub_bytes + next * jit->half_bytes;
	emit_init(&jit->emit, jit->mem.rw + offset, jit->half_bytes, jit->mem.rx - jit->mem.rw);
	jit->n_flushes++;
	atomic_store(&jit->epoch, epoch + 1);
	return true;
}
