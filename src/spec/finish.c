/*
 * Validation and derived values of a machine as a whole. A single value's range is the table's business and is checked again here,
 * because a spec need not come from a codec. Disks and network cards are in finish_devices.c.
 *
 * What only the host can say (is the kernel there, may the disk be opened) is found by whoever opens it.
 */
#include "spec/spec_int.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/str.h"

#define PAGE_BYTES 4096

static int check_fields(const struct spec_option *opt, const void *base, struct error *err)
{
	for (size_t i = 0; i < opt->n_fields; i++) {
		const struct spec_field *f = &opt->fields[i];
		int r = f->type->check ? f->type->check(f, base, err) : 0;

		if (r < 0 && f->key)
			error_prefix(err, "--%s: %s", opt->name, f->key);
		else if (r < 0)
			error_prefix(err, "--%s", opt->name);
		if (r < 0)
			return r;
	}
	return 0;
}

static int check_ranges(const struct spec *spec, struct error *err)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < spec_n_options; i++) {
		const struct spec_option *opt = &spec_options[i];

		if (opt->kind == SPEC_OPT_ACTION)
			continue;
		if (opt->kind != SPEC_OPT_LIST) {
			r = check_fields(opt, spec_option_base_const(opt, spec), err);
			continue;
		}
		for (size_t n = 0; r == 0 && n < spec_list_count(opt, spec); n++)
			r = check_fields(opt, spec_list_at(opt, spec, n), err);
	}
	return r;
}

/* Letters, digits and ._+:@- : fit for a file's name, a process title and a JSON string alike. */
int spec_check_name(const char *option, const char *name, struct error *err)
{
	for (const char *c = name; *c; c++)
		if (!isalnum((unsigned char)*c) && (c == name || !strchr("._+:@-", *c)))
			return error_set(err, -EINVAL,
					 "%s: '%s' is no name: give letters, digits and . _ + : @ "
					 "-, a letter or digit first",
					 option, name);
	return 0;
}

/* What is open takes the rest of the product: cores, else sockets, else threads. */
static int finish_cpu(struct spec_cpu *cpu, struct error *err)
{
	uint32_t *open = !cpu->cores     ? &cpu->cores
			 : !cpu->sockets ? &cpu->sockets
			 : !cpu->threads ? &cpu->threads
					 : NULL;
	uint64_t product;

	if (cpu->count == 0)
		return error_set(err, -EINVAL, "--cpus: 0 vCPUs cannot run anything: give 1 to %d",
				 SPEC_MAX_VCPUS);
	if (!cpu->cores)
		cpu->cores = 1;
	if (!cpu->sockets)
		cpu->sockets = 1;
	if (!cpu->threads)
		cpu->threads = 1;
	product = (uint64_t)cpu->sockets * cpu->cores * cpu->threads;
	if (open && product > 0 && cpu->count % product == 0) {
		*open = (uint32_t)(cpu->count / product);
		product = cpu->count;
	}
	if (product != cpu->count)
		return error_set(err, -EINVAL,
				 "--cpus: %" PRIu32 " sockets x %" PRIu32 " cores x %" PRIu32
				 " threads do not make %" PRIu32 " vCPUs: change one of them",
				 cpu->sockets, cpu->cores, cpu->threads, cpu->count);
	return 0;
}

static int finish_memory(struct spec_memory *memory, struct error *err)
{
	uint64_t whole_kib = align_up(memory->size_bytes, MIB) / KIB;
	char given[32], page[32];

	if (memory->size_bytes == 0)
		return error_set(err, -EINVAL,
				 "--memory: a machine needs memory: give --memory 512M");
	if (memory->hugepages && memory->hugepage_bytes == 0)
		memory->hugepage_bytes = 2 * MIB;
	format_size(memory->size_bytes, given, sizeof(given));
	if (memory->hugepage_bytes) {
		format_size(memory->hugepage_bytes, page, sizeof(page));
		if (!memory->hugepages)
			return error_set(err, -EINVAL,
					 "--memory: hugepage-size is given but huge pages are off: "
					 "add hugepages=on");
		if (memory->hugepage_bytes != 2 * MIB && memory->hugepage_bytes != GIB)
			return error_set(err, -EINVAL,
					 "--memory: hugepage-size %s does not exist: give 2M or 1G",
					 page);
		if (memory->size_bytes % memory->hugepage_bytes)
			return error_set(err, -EINVAL,
					 "--memory: %s is no multiple of the huge page, %s", given,
					 page);
		if (memory->path)
			return error_set(err, -EINVAL,
					 "--memory: hugepages and path exclude each other: a file "
					 "on hugetlbfs is enough");
		if (memory->mergeable)
			return error_set(err, -EINVAL,
					 "--memory: mergeable and hugepages exclude each other: "
					 "the host merges small pages only");
	}
	if (memory->size_bytes % PAGE_BYTES)
		return error_set(err, -EINVAL,
				 "--memory: %" PRIu64 " bytes are no whole number of 4 KiB pages: "
				 "give a multiple, for example %" PRIu64 "K",
				 memory->size_bytes, whole_kib);
	return 0;
}

static int finish_boot(const struct spec *spec, struct error *err)
{
	/* The scripted accelerator executes no guest code. */
	if (!spec->boot.kernel && spec->accel != SPEC_ACCEL_NULL)
		return error_set(err, -EINVAL,
				 "there is no kernel to boot: give --kernel FILE, a bzImage, an "
				 "ELF image with a PVH note, or a multiboot 1 image");
	if (spec->engine != SPEC_ENGINE_AUTO && spec->accel != SPEC_ACCEL_SOFT)
		return error_set(err, -EINVAL,
				 "--accel: engine belongs to kind soft: give --accel "
				 "soft,engine=interpreter, or leave it out");
	if (spec->null_script && spec->accel != SPEC_ACCEL_NULL)
		return error_set(err, -EINVAL,
				 "--accel: script belongs to kind null: give --accel "
				 "null,script=%s, or leave it out",
				 spec->null_script);
	return 0;
}

/* Paths that would each make a socket or file of their own. */
static int finish_chars(const struct spec *spec, struct error *err)
{
	const struct spec_char *a = &spec->serial;
	const struct spec_char *b = &spec->console;

	if (a->kind == SPEC_CHAR_STDIO && b->kind == SPEC_CHAR_STDIO)
		return error_set(err, -EINVAL,
				 "--serial and --console both want stdio: give one of them another "
				 "place, for example --serial none");
	if (a->path && b->path && str_eq(a->path, b->path))
		return error_set(err, -EINVAL,
				 "--serial and --console both want '%s': give one of them another "
				 "path",
				 a->path);
	for (unsigned i = 0; i < 2; i++) {
		const struct spec_char *chr = i == 0 ? a : b;

		if (spec->qmp_socket && chr->path && str_eq(spec->qmp_socket, chr->path))
			return error_set(err, -EINVAL,
					 "--qmp and --%s both want '%s': give one of them another "
					 "path",
					 i == 0 ? "serial" : "console", chr->path);
	}
	return 0;
}

int spec_finish(struct spec *spec, struct error *err)
{
	int r;

	if (!spec->name)
		return error_set(err, -ENOMEM, "no memory for the machine's name");
	r = check_ranges(spec, err);
	if (r == 0)
		r = spec_check_name("--name", spec->name, err);
	if (r == 0)
		r = finish_boot(spec, err);
	if (r == 0)
		r = finish_cpu(&spec->cpu, err);
	if (r == 0)
		r = finish_memory(&spec->memory, err);
	if (r == 0 && spec->vsock.present && spec->vsock.cid == 0)
		r = error_set(err, -EINVAL, "--vsock: no context id: give --vsock cid=3");
	if (r == 0)
		r = finish_chars(spec, err);
	if (r == 0)
		r = spec_finish_disks(spec, err);
	if (r == 0)
		r = spec_finish_nets(spec, err);
	if (r == 0)
		r = spec_check_slots(spec, err);
	return r;
}
