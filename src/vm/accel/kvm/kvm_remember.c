/*
 * What the probe found, remembered until the host boots again: a line in a file of the user's run-time folder ($XDG_RUNTIME_DIR; /run for
 * root without one) with the boot's identifier, the verdict, and its sentence. Where there is no such folder nothing is remembered. A file that is
 * not this user's own counts as none. Whether /dev/kvm can be opened is not remembered.
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/str.h"
#include "vm/accel/kvm/kvm_int.h"

#define FILE_NAME "vireo-kvm-probe"
#define BOOT_ID   "/proc/sys/kernel/random/boot_id"
#define ID_BYTES  36

struct note {
	char path[4096];
	char boot[ID_BYTES + 1];
};

static bool note_place(struct note *n)
{
	_cleanup_close_ int fd = open(BOOT_ID, O_RDONLY | O_CLOEXEC);
	const char *folder = getenv("XDG_RUNTIME_DIR");
	int len;

	if (!folder || folder[0] != '/')
		folder = geteuid() == 0 ? "/run" : NULL;
	if (!folder || fd < 0 || fd_read_full(fd, n->boot, ID_BYTES) != ID_BYTES)
		return false;
	n->boot[ID_BYTES] = '\0';
	len = snprintf(n->path, sizeof(n->path), "%s/" FILE_NAME, folder);
	return len > 0 && (size_t)len < sizeof(n->path);
}

bool kvm_recall(int *ret_verdict, struct error *err)
{
	struct note n;
	char text[ID_BYTES + 600];
	struct stat st;
	ssize_t len;

	if (!note_place(&n))
		return false;

	_cleanup_close_ int fd = open(n.path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);

	if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_uid != geteuid())
		return false;
	len = fd_read_full(fd, text, sizeof(text) - 1);
	if (len < ID_BYTES + 2)
		return false;
	text[len] = '\0';
	text[strcspn(text, "\n")] = '\0';
	if (memcmp(text, n.boot, ID_BYTES) != 0)
		return false;
	if (str_eq(text + ID_BYTES, " fast")) {
		*ret_verdict = 0;
		return true;
	}
	if (!str_starts(text + ID_BYTES, " slow "))
		return false;
	*ret_verdict = error_set(err, -ENOSYS, "%s", text + ID_BYTES + 6);
	return true;
}

void kvm_remember(int verdict, const char *why)
{
	char temporary[sizeof(((struct note *)0)->path) + 16];
	struct note n;
	char text[ID_BYTES + 600];
	int len;

	if ((verdict != 0 && verdict != -ENOSYS) || !note_place(&n))
		return;
	len = snprintf(text, sizeof(text), "%s %s%s\n", n.boot, verdict ? "slow " : "fast",
		       verdict ? why : "");
	snprintf(temporary, sizeof(temporary), "%s.%d", n.path, (int)getpid());

	_cleanup_close_ int fd =
		open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);

	/* A note that cannot be made is no harm: the next machine probes again. */
	if (fd < 0 || len < 0 || (size_t)len >= sizeof(text))
		return;
	if (fd_write_full(fd, text, (size_t)len) < 0 || rename(temporary, n.path) < 0)
		unlink(temporary);
}
