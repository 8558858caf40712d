/* `vireo audit verify`: is the daemon's record of what was asked of it whole? Only thread. */
#include <errno.h>

#include "base/audit.h"
#include "base/log.h"
#include "base/str.h"
#include "cli/cli.h"

#define DEFAULT_FILE "/var/lib/vireo/audit.jsonl"

int cli_verb_audit(int argc, char **argv)
{
	const char *path = argc > 1 ? argv[1] : DEFAULT_FILE;
	char last[SHA256_TEXT_BYTES];
	struct error err = ERROR_INIT;
	uint64_t records;
	int r;

	if (argc < 1 || argc > 2 || !str_eq(argv[0], "verify")) {
		log_error("give 'vireo audit verify', and a file if it is not " DEFAULT_FILE);
		return CLI_USAGE;
	}
	r = audit_verify(path, &records, last, &err);
	if (r < 0) {
		log_error("%s", err.text);
		return r == -EBADMSG ? CLI_FAILED : CLI_USAGE;
	}
	printf("%s: %llu records, none altered or missing between them; the last hash is %s\n",
	       path, (unsigned long long)records, last);
	return CLI_OK;
}
