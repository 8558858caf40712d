/*
 * Texts about the options, made from the table: --help, the options section of the manual pages, and the data of shell completion.
 */
#include "spec/spec_int.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/str.h"

#define HELP_COLUMN 32
#define HELP_WIDTH  96

/* "on|off", "N", "writeback|none|...": what a field's value looks like. */
static void field_value(const struct spec_field *f, char *buf, size_t size)
{
	size_t used = 0;

	if (f->arg || !f->choices) {
		str_copy(buf, size, f->arg ? f->arg : f->type == &spec_type_bool ? "on|off" : "N");
		return;
	}
	buf[0] = '\0';
	for (size_t i = 0; f->choices[i] && used < size; i++)
		used += (size_t)snprintf(buf + used, size - used, "%s%s", i ? "|" : "",
					 f->choices[i]);
}

/* "how many vCPUs (1 to 255, default 1)" */
static void field_help(const struct spec_field *f, const char *help, char *buf, size_t size)
{
	bool range = f->type == &spec_type_u32 || (f->type == &spec_type_int && f->min > 0);
	char notes[96] = "";
	size_t used = 0;

	if (range)
		used += (size_t)snprintf(notes, sizeof(notes), "%" PRIu64 " to %" PRIu64, f->min,
					 f->max);
	if (f->initial)
		used += (size_t)snprintf(notes + used, sizeof(notes) - used, "%sdefault %s",
					 used ? ", " : "", f->initial);
	if (f->live)
		snprintf(notes + used, sizeof(notes) - used, "%schangeable while it runs",
			 used ? ", " : "");
	if (notes[0])
		snprintf(buf, size, "%s (%s)", help, notes);
	else
		str_copy(buf, size, help);
}

static bool is_compound(const struct spec_option *opt)
{
	return opt->kind == SPEC_OPT_GROUP || opt->kind == SPEC_OPT_LIST;
}

static void option_help(const struct spec_option *opt, char *buf, size_t size)
{
	if (opt->n_fields == 1 && !is_compound(opt) && opt->kind != SPEC_OPT_FLAG)
		field_help(&opt->fields[0], opt->help, buf, size);
	else
		str_copy(buf, size, opt->help);
}

/* --- --help --- */

static void write_words(FILE *out, const char *text)
{
	size_t column = HELP_COLUMN;

	while (*text) {
		size_t len = strcspn(text, " ");

		if (column > HELP_COLUMN && column + 1 + len > HELP_WIDTH) {
			fprintf(out, "\n%*s", HELP_COLUMN, "");
			column = HELP_COLUMN;
		} else if (column > HELP_COLUMN) {
			fputc(' ', out);
			column++;
		}
		fprintf(out, "%.*s", (int)len, text);
		column += len;
		text += len;
		text += strspn(text, " ");
	}
	fputc('\n', out);
}

static void write_help_line(FILE *out, const char *left, const char *help)
{
	if (strlen(left) + 2 > HELP_COLUMN)
		fprintf(out, "%s\n%*s", left, HELP_COLUMN, "");
	else
		fprintf(out, "%-*s", HELP_COLUMN, left);
	write_words(out, help);
}

static void write_help_option(FILE *out, const struct spec_option *opt)
{
	const char *arg = spec_option_arg(opt);
	char left[128], value[96], help[512];

	snprintf(left, sizeof(left), "  --%s%s%s%s", opt->name, arg ? " " : "", arg ? arg : "",
		 is_compound(opt) && opt->n_fields > 1 ? "[,KEY=VALUE...]" : "");
	option_help(opt, help, sizeof(help));
	write_help_line(out, left, help);
	for (size_t i = 0; is_compound(opt) && i < opt->n_fields; i++) {
		const struct spec_field *f = &opt->fields[i];

		field_value(f, value, sizeof(value));
		snprintf(left, sizeof(left), "      %s=%s", f->key, value);
		field_help(f, f->help, help, sizeof(help));
		write_help_line(out, left, help);
	}
}

void spec_doc_help(FILE *out)
{
	for (int section = 0; section < SPEC_N_SECTIONS; section++) {
		fprintf(out, "%s%s:\n", section ? "\n" : "", spec_section_names[section]);
		for (size_t i = 0; i < spec_n_options; i++)
			if ((int)spec_options[i].section == section)
				write_help_option(out, &spec_options[i]);
	}
}

char *spec_help_text(void)
{
	char *text = NULL;
	size_t size = 0;
	FILE *out = open_memstream(&text, &size);
	bool failed;

	if (!out)
		return NULL;
	spec_doc_help(out);
	failed = ferror(out);
	if (fclose(out) == 0 && !failed)
		return text;
	free(text);
	return NULL;
}

/* --- the manual page: man(7) macros --- */

/* Text for troff: a hyphen is a minus, a backslash and a leading control character are escaped. */
static void write_troff(FILE *out, const char *text)
{
	if (*text == '.' || *text == '\'')
		fputs("\\&", out);
	for (; *text; text++) {
		if (*text == '-')
			fputs("\\-", out);
		else if (*text == '\\')
			fputs("\\e", out);
		else if (*text == '^')
			fputs("\\(ha", out);
		else
			fputc(*text, out);
	}
}

static void write_man_item(FILE *out, const char *name, const char *between, const char *value,
			   const char *help)
{
	fputs(".TP\n\\fB", out);
	write_troff(out, name);
	fputs("\\fR", out);
	if (value) {
		write_troff(out, between);
		fputs("\\fI", out);
		write_troff(out, value);
		fputs("\\fR", out);
	}
	fputc('\n', out);
	write_troff(out, help);
	fputc('\n', out);
}

static void write_man_option(FILE *out, const struct spec_option *opt)
{
	const char *arg = spec_option_arg(opt);
	char name[64], value[96], help[512];

	snprintf(name, sizeof(name), "--%s", opt->name);
	if (arg)
		snprintf(value, sizeof(value), "%s%s", arg,
			 is_compound(opt) && opt->n_fields > 1 ? "[,KEY=VALUE...]" : "");
	option_help(opt, help, sizeof(help));
	write_man_item(out, name, " ", arg ? value : NULL, help);
	if (!is_compound(opt))
		return;
	fputs(".RS\n", out);
	for (size_t i = 0; i < opt->n_fields; i++) {
		const struct spec_field *f = &opt->fields[i];

		field_value(f, value, sizeof(value));
		field_help(f, f->help, help, sizeof(help));
		write_man_item(out, f->key, "=", value, help);
	}
	fputs(".RE\n", out);
}

void spec_doc_man(FILE *out)
{
	for (int section = 0; section < SPEC_N_SECTIONS; section++) {
		fprintf(out, ".SS %s\n", spec_section_names[section]);
		for (size_t i = 0; i < spec_n_options; i++)
			if ((int)spec_options[i].section == section)
				write_man_option(out, &spec_options[i]);
	}
}

/* --- completion: lines "option|key|values", values being words, or FILE for a file's name --- */

/* Alternatives that are no placeholder: "on|off" yes, "N" no. */
static void write_values(FILE *out, const char *value)
{
	if (str_eq(value, "FILE") || str_eq(value, "PATH")) {
		fputs(value, out);
		return;
	}
	if (!strchr(value, '|') || strchr(value, '['))
		return;
	for (const char *c = value; *c; c++) {
		if (*c == '|')
			fputc(' ', out);
		else if (*c != ':' || !str_starts(c, ":PATH"))
			fputc(*c, out);
		else {
			fputc(':', out);
			c += strlen("PATH");
		}
	}
}

void spec_doc_completion(FILE *out)
{
	char value[96];

	for (size_t i = 0; i < spec_n_options; i++) {
		const struct spec_option *opt = &spec_options[i];
		const char *arg = spec_option_arg(opt);

		/* A name alone, or with a value to follow: "paused|", "kernel|=|FILE". */
		fprintf(out, "%s|%s|", opt->name, arg ? "=" : "");
		if (arg && !is_compound(opt) && opt->n_fields == 1 && opt->fields[0].choices) {
			field_value(&opt->fields[0], value, sizeof(value));
			arg = value;
		} else if (arg && is_compound(opt)) {
			field_value(&opt->fields[0], value, sizeof(value));
			arg = value;
		}
		if (arg)
			write_values(out, arg);
		fputc('\n', out);
		for (size_t n = 0; is_compound(opt) && n < opt->n_fields; n++) {
			field_value(&opt->fields[n], value, sizeof(value));
			fprintf(out, "%s|%s|", opt->name, opt->fields[n].key);
			write_values(out, value);
			fputc('\n', out);
		}
	}
}

void spec_doc_list(FILE *out)
{
	for (size_t i = 0; i < spec_n_options; i++) {
		const struct spec_option *opt = &spec_options[i];

		fprintf(out, "%s\n", opt->name);
		for (size_t n = 0; is_compound(opt) && n < opt->n_fields; n++)
			fprintf(out, "%s.%s\n", opt->name, opt->fields[n].key);
	}
}
