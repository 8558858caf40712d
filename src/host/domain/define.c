/*
 * What is on disk of a machine: define, undefine, rename, autostart, metadata. The file is durable before memory says so, and before anybody is told.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "base/str.h"
#include "host/domain/domain_int.h"

/* Details of the events, libvirt's numbers. */
enum { DEFINED_ADDED = 0, DEFINED_UPDATED = 1, DEFINED_RENAMED = 2 };
enum { UNDEFINED_REMOVED = 0, UNDEFINED_RENAMED = 1 };

/* A machine's name has 63 bytes at most (spec), the store's names 200. */
#define FILE_NAME_BYTES 96

static void file_name(const char *name, char buf[FILE_NAME_BYTES])
{
	snprintf(buf, FILE_NAME_BYTES, "%s" DOMAIN_XML_SUFFIX, name);
}

static int write_definition(const struct domain_set *set, const struct spec_xml *xml,
			    struct error *err)
{
	char file[FILE_NAME_BYTES];

	file_name(xml->spec.name, file);
	return store_write(&set->machines, file, xml->text, strlen(xml->text), err);
}

/* --- define --- */

static int define_run(struct domain_job *job, struct error *err)
{
	return write_definition(job->dom->set, job->xml, err);
}

static void define_finish(struct domain_job *job)
{
	struct domain *dom = job->dom;
	bool known = dom->persistent;

	domain_set_def(dom, steal_ptr(&job->xml));
	dom->persistent = true;
	dom->listed = true;
	dom->updated = domain_active(dom);
	domain_emit(dom, DOMAIN_DEFINED, known ? DEFINED_UPDATED : DEFINED_ADDED);
	domain_job_end(job, 0, NULL);
}

/* A first definition that could not be written takes its place back. */
static void define_failed(struct domain *dom)
{
	if (!dom->listed && dom->n_jobs == 0)
		domain_forget(dom);
}

struct define_done {
	struct domain_done done;
	struct domain_done *caller;
};

static void define_told(struct domain_done *done, struct domain *dom, int r,
			const struct error *err)
{
	struct define_done *own = container_of(done, struct define_done, done);

	if (r < 0 && dom)
		define_failed(dom);
	domain_done_tell(own->caller, dom, r, err);
	free(own);
}

static void define_start(struct domain_job *job)
{
	struct error err = ERROR_INIT;

	/* It may have been undefined while this waited. */
	if (job->dom->gone) {
		error_set(&err, -EBADFD, "domain '%s' was undefined meanwhile", job->dom->name);
		domain_job_end(job, -EBADFD, &err);
		return;
	}
	domain_job_work(job);
}

static int define_submit(struct domain_set *set, struct spec_xml *xml, struct domain_done *done,
			 struct error *err)
{
	struct domain *dom = NULL;
	struct define_done *own;
	struct domain_job *job;
	int r = domain_find_place(set, xml, &dom, err);

	if (r >= 0 && !dom)
		r = domain_new(set, xml, &dom, err);
	if (r < 0)
		return r;
	own = calloc(1, sizeof(*own));
	if (!own) {
		define_failed(dom);
		return error_set(err, -ENOMEM, "no memory for a job");
	}
	own->done.fn = define_told;
	own->caller = done;
	job = domain_job_new(dom, "define", define_start, &own->done);
	/* Without one, `done` has been told already. */
	if (!job)
		return 1;
	job->xml = xml;
	job->run = define_run;
	job->finish = define_finish;
	domain_job_submit(job);
	return 0;
}

void domain_define(struct domain_set *set, const char *text, struct domain_done *done)
{
	struct error err = ERROR_INIT;
	struct spec_xml *xml = NULL;
	int r = spec_xml_parse(text, strlen(text), set->config.emulator, &xml, &err);

	if (r >= 0)
		r = define_submit(set, xml, done, &err);
	if (r != 0)
		spec_xml_free(xml);
	if (r < 0)
		domain_done_tell(done, NULL, r, &err);
}

/* --- undefine --- */

static int undefine_run(struct domain_job *job, struct error *err)
{
	const struct domain_set *set = job->dom->set;
	char file[FILE_NAME_BYTES];
	int r;

	file_name(job->name, file);
	r = store_remove(&set->autostart, file, err);
	return r < 0 ? r : store_remove(&set->machines, file, err);
}

static void undefine_finish(struct domain_job *job)
{
	struct domain *dom = job->dom;

	dom->persistent = false;
	dom->autostart = false;
	domain_emit(dom, DOMAIN_UNDEFINED, UNDEFINED_REMOVED);
	if (!domain_active(dom))
		domain_forget(dom);
	domain_job_end(job, 0, NULL);
}

/* The check of every job that changes what is on disk; false: it has been ended. */
static bool need_persistent(struct domain_job *job)
{
	struct error err = ERROR_INIT;

	if (job->dom->persistent && !job->dom->gone)
		return true;
	error_set(&err, -EBADFD, "cannot %s transient domain", job->what);
	domain_job_end(job, -EBADFD, &err);
	return false;
}

static void undefine_start(struct domain_job *job)
{
	struct error err = ERROR_INIT;

	if (!need_persistent(job))
		return;
	job->name = strdup(job->dom->name);
	if (job->name) {
		domain_job_work(job);
		return;
	}
	error_set(&err, -ENOMEM, "no memory for a name");
	domain_job_end(job, -ENOMEM, &err);
}

void domain_undefine(struct domain *dom, struct domain_done *done)
{
	struct domain_job *job = domain_job_new(dom, "undefine", undefine_start, done);

	if (!job)
		return;
	job->run = undefine_run;
	job->finish = undefine_finish;
	domain_job_submit(job);
}

/* --- autostart --- */

static int autostart_run(struct domain_job *job, struct error *err)
{
	const struct domain_set *set = job->dom->set;
	char file[FILE_NAME_BYTES], target[FILE_NAME_BYTES + 16];

	file_name(job->name, file);
	if (!job->flag)
		return store_remove(&set->autostart, file, err);
	snprintf(target, sizeof(target), "../machines/%s", file);
	return store_link(&set->autostart, file, target, err);
}

static void autostart_finish(struct domain_job *job)
{
	job->dom->autostart = job->flag;
	domain_job_end(job, 0, NULL);
}

void domain_set_autostart_of(struct domain *dom, bool on, struct domain_done *done)
{
	struct domain_job *job = domain_job_new(dom, "set autostart for", undefine_start, done);

	if (!job)
		return;
	job->flag = on;
	job->run = autostart_run;
	job->finish = autostart_finish;
	domain_job_submit(job);
}

/* --- rename --- */

/* The new file first: a crash between leaves both, and the second is told of and left alone at the next start. */
static int rename_run(struct domain_job *job, struct error *err)
{
	const struct domain_set *set = job->dom->set;
	char file[FILE_NAME_BYTES], target[FILE_NAME_BYTES + 16];
	int r = write_definition(set, job->xml, err);

	file_name(job->xml->spec.name, file);
	snprintf(target, sizeof(target), "../machines/%s", file);
	if (r >= 0 && job->flag)
		r = store_link(&set->autostart, file, target, err);
	return r < 0 ? r : undefine_run(job, err);
}

static void rename_finish(struct domain_job *job)
{
	struct domain *dom = job->dom;
	struct error err = ERROR_INIT;

	domain_emit(dom, DOMAIN_UNDEFINED, UNDEFINED_RENAMED);
	if (domain_set_name(dom, job->xml->spec.name) < 0) {
		error_set(&err, -ENOMEM, "no memory for a name");
		domain_job_end(job, -ENOMEM, &err);
		return;
	}
	domain_set_def(dom, steal_ptr(&job->xml));
	domain_emit(dom, DOMAIN_DEFINED, DEFINED_RENAMED);
	domain_job_end(job, 0, NULL);
}

static int rename_prepare(struct domain_job *job, struct error *err)
{
	struct domain *dom = job->dom;
	_cleanup_free_ char *text = NULL;
	struct domain *taken;
	int r;

	if (!job->text)
		return error_set(err, -ENOMEM, "no memory for a name");
	if (domain_active(dom))
		return error_set(err, -EBADFD, "cannot rename active domain");
	if (!store_name_good(job->text))
		return error_set(err, -EINVAL, "'%.63s' cannot be a machine's name", job->text);
	taken = domain_by_name(dom->set, job->text);
	if (taken)
		return error_set(err, -EEXIST, "domain with name '%s' already exists", job->text);
	r = spec_xml_set_name(dom->def, job->text, &text, err);
	if (r >= 0)
		r = spec_xml_parse(text, strlen(text), dom->set->config.emulator, &job->xml, err);
	job->name = strdup(dom->name);
	job->flag = dom->autostart;
	return r >= 0 && !job->name ? error_set(err, -ENOMEM, "no memory for a name") : r;
}

static void rename_start(struct domain_job *job)
{
	struct error err = ERROR_INIT;
	int r;

	if (!need_persistent(job))
		return;
	r = rename_prepare(job, &err);
	if (r < 0)
		domain_job_end(job, r, &err);
	else
		domain_job_work(job);
}

void domain_rename(struct domain *dom, const char *name, struct domain_done *done)
{
	struct domain_job *job = domain_job_new(dom, "rename", rename_start, done);

	if (!job)
		return;
	job->run = rename_run;
	job->finish = rename_finish;
	job->text = strdup(name);
	domain_job_submit(job);
}

/* --- metadata --- */

static void metadata_start(struct domain_job *job)
{
	if (need_persistent(job))
		domain_job_work(job);
}

/* A change of the definition that the running machine sees at once: it says nothing about devices. */
static void metadata_finish(struct domain_job *job)
{
	domain_set_def(job->dom, steal_ptr(&job->xml));
	domain_job_end(job, 0, NULL);
}

void domain_set_metadata(struct domain *dom, int type, const char *text, const char *key,
			 const char *uri, struct domain_done *done)
{
	_cleanup_free_ char *all = NULL;
	struct error err = ERROR_INIT;
	struct spec_xml *xml = NULL;
	struct domain_job *job;
	int r = spec_xml_set_metadata(dom->def, (enum spec_xml_metadata)type, text, key, uri, &all,
				      &err);

	if (r >= 0)
		r = spec_xml_parse(all, strlen(all), dom->set->config.emulator, &xml, &err);
	if (r < 0) {
		domain_done_tell(done, dom, r, &err);
		return;
	}
	job = domain_job_new(dom, "set metadata of", metadata_start, done);
	if (!job) {
		spec_xml_free(xml);
		return;
	}
	job->xml = xml;
	job->run = define_run;
	job->finish = metadata_finish;
	domain_job_submit(job);
}
