/*
 * Inside of src/spec: the option table's types. The table (table.c) is the one place that says which options and keys exist;
 * the command line (args.c), JSON (json.c), validation (finish.c) and every text about options (doc.c) walk it.
 */
#pragma once

#include <errno.h>
#include <stdio.h>

#include "base/json.h"
#include "spec/spec.h"

struct spec_field;

/* Which JSON values a type takes. Whatever it is becomes text and goes through parse(), so that both codecs agree. */
#define SPEC_JSON_STRING 1u
#define SPEC_JSON_INT    2u
#define SPEC_JSON_BOOL   4u
#define SPEC_JSON_ARRAY  8u /* of strings or integers; parse() is called for each and appends */

/* base: the struct that the field's offsets count from. */
struct spec_type {
	unsigned json;
	/* Sets the member from text, without a look at its range. The message names the text, not the option. */
	int (*parse)(const struct spec_field *f, void *base, const char *text, struct error *err);
	/* *ret stays NULL when the member is unset: the key is then left out. -ENOMEM. */
	int (*to_json)(const struct spec_field *f, const void *base, json_t **ret);
	/* Frees what the member owns and makes it unset. */
	void (*clear)(const struct spec_field *f, void *base);
	/* Is what the member holds, however it came there, in the field's range? NULL: always. */
	int (*check)(const struct spec_field *f, const void *base, struct error *err);
};

static inline void *spec_member(void *base, size_t offset)
{
	return (char *)base + offset;
}
static inline const void *spec_member_const(const void *base, size_t offset)
{
	return (const char *)base + offset;
}
static inline int spec_json_made(json_t *value, json_t **ret)
{
	*ret = value;
	return value ? 0 : -ENOMEM;
}

extern const struct spec_type spec_type_bool;
extern const struct spec_type spec_type_u32;     /* 0 is unset where min is above it */
extern const struct spec_type spec_type_int;     /* int32_t; -1 is unset */
extern const struct spec_type spec_type_size;    /* uint64_t bytes; likewise 0 */
extern const struct spec_type spec_type_enum;    /* an index into choices */
extern const struct spec_type spec_type_string;  /* min to max bytes; max 0: no bound */
extern const struct spec_type spec_type_choice;  /* a string out of choices */
extern const struct spec_type spec_type_key;     /* uint8_t: a control character as ^A, or none */
extern const struct spec_type spec_type_mac;     /* aux: its bool */
extern const struct spec_type spec_type_uuid;    /* aux: its bool */
extern const struct spec_type spec_type_char;    /* struct spec_char */
extern const struct spec_type spec_type_fds;     /* int[max]; aux: its count */
extern const struct spec_type spec_type_hostfwd; /* char **; aux: its count */

struct spec_field {
	const char *key; /* NULL in an option that is one value */
	const struct spec_type *type;
	size_t offset;
	size_t aux;          /* offset of the member that goes with it, where the type says so */
	const char *initial; /* default, as text; NULL: unset */
	uint64_t min, max;   /* range, or length */
	uint64_t unit;       /* spec_type_size: what a bare number counts */
	const char *const *choices; /* NULL-terminated */
	const char *arg; /* what the value is, in help: "FILE"; NULL: its choices or range */
	const char *help;
	bool live; /* can be changed while the machine runs */
};

enum spec_option_kind {
	SPEC_OPT_VALUE,  /* --name NAME */
	SPEC_OPT_FLAG,   /* --paused, --paused=off */
	SPEC_OPT_GROUP,  /* --memory 1G,hugepages=on: fields of one struct */
	SPEC_OPT_LIST,   /* --disk path=a --disk path=b: each adds an element */
	SPEC_OPT_ACTION, /* --help: not a property of the machine */
};

enum spec_section {
	SPEC_SECTION_BOOT,
	SPEC_SECTION_MACHINE,
	SPEC_SECTION_DEVICES,
	SPEC_SECTION_RUN,
	SPEC_SECTION_PROGRAM,
	SPEC_N_SECTIONS,
};

enum spec_action {
	SPEC_ACTION_NONE,
	SPEC_ACTION_CONFIG,
	SPEC_ACTION_PRINT_CONFIG,
	SPEC_ACTION_HELP,
	SPEC_ACTION_VERSION,
};

#define SPEC_NO_OFFSET SIZE_MAX

struct spec_option {
	const char *name; /* without the dashes */
	const char *json; /* NULL: no key */
	enum spec_option_kind kind;
	enum spec_section section;
	enum spec_action action;
	/* The first field of a group or list is the main one: it may stand without its key at the front. */
	const struct spec_field *fields;
	size_t n_fields;
	size_t base;    /* GROUP: where the fields' struct is. LIST: the pointer to the elements */
	size_t present; /* GROUP: a bool that says that the group was given, or SPEC_NO_OFFSET */
	size_t count, elem_size, max_count; /* LIST */
	bool fresh;      /* GROUP: on the command line each use begins from the defaults again */
	const char *arg; /* GROUP, LIST: the main field, in help. ACTION: its argument */
	const char *help;
};

extern const struct spec_option spec_options[];
extern const size_t spec_n_options;
extern const char *const spec_section_names[SPEC_N_SECTIONS];

const struct spec_option *spec_option_find(const char *name);
const struct spec_option *spec_option_find_json(const char *key);
const struct spec_field *spec_field_find(const struct spec_option *opt, const char *key);

/* parse() and check(). */
int spec_field_set(const struct spec_field *f, void *base, const char *text, struct error *err);

/* The struct that a VALUE, FLAG or GROUP option's fields count from. */
void *spec_option_base(const struct spec_option *opt, struct spec *spec);
const void *spec_option_base_const(const struct spec_option *opt, const struct spec *spec);
/* Frees what its fields own and sets each to its default. */
void spec_fields_init(const struct spec_option *opt, void *base);
/* Elements of a LIST. */
size_t spec_list_count(const struct spec_option *opt, const struct spec *spec);
void *spec_list_at(const struct spec_option *opt, const struct spec *spec, size_t index);
/* A new last element with its defaults; -ENOSPC at max_count, -ENOMEM. */
int spec_list_append(const struct spec_option *opt, struct spec *spec, void **ret,
		     struct error *err);

/* What the option's value looks like, for help; NULL when it takes none. */
const char *spec_option_arg(const struct spec_option *opt);

/* As spec_from_json(), from a value. */
int spec_from_json_value(struct spec *spec, const json_t *obj, const char *what, struct error *err);

/* Sets `; did you mean '<nearest>'?` messages: "<what> '<word>'", with the nearest of n names when there is one. */
int spec_unknown(struct error *err, const char *what, const char *word, const char *const *names,
		 size_t n);

/* Parts of spec_finish(). */
int spec_check_name(const char *option, const char *name, struct error *err);
int spec_finish_disks(struct spec *spec, struct error *err);
int spec_finish_nets(struct spec *spec, struct error *err);
int spec_check_slots(const struct spec *spec, struct error *err);

/* "tcp:127.0.0.1:2222-:22", "udp:[::1]:53-:53". */
struct spec_hostfwd {
	bool udp;
	int family; /* AF_INET, AF_INET6; 0: every address of the host */
	uint8_t host_addr[16];
	uint16_t host_port, guest_port;
};
int spec_hostfwd_parse(const char *text, struct spec_hostfwd *ret, struct error *err);

/* --- texts about the options; written to `out`, whose error indicator says whether it went well --- */
void spec_doc_help(FILE *out);
void spec_doc_man(FILE *out);        /* troff, man(7) macros */
void spec_doc_completion(FILE *out); /* shell arrays, see completion/ */
void spec_doc_list(FILE *out);       /* a line an option or key: "disk", "disk.path": for tests */
