/* Between file.c and file_lock.c. */
#pragma once

#include "image/image_impl.h"

/* Takes the lock that fits file->readonly; it goes with the descriptor. The message says what to do. */
int image_file_lock(struct image_file *file, struct error *err);
/* Now, not when the kernel has dropped its last reference. Nothing is in flight. */
void image_file_unlock(struct image_file *file);
