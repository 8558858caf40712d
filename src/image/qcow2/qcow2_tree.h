/* Walks over all that an L1 table reaches, for offline changes. */
#pragma once

#include "image/qcow2/qcow2_int.h"

/* Would adding one to each refcount be too much for any? -ERANGE then. */
int qcow2_tree_ref_check(struct qcow2 *q, const uint64_t *l1, uint32_t n);
/* Adds delta to the refcount of each L2 table and cluster. */
int qcow2_tree_ref(struct qcow2 *q, const uint64_t *l1, uint32_t n, int delta);
/* Takes "mine alone" away from each entry of its L2 tables; of the L1 table too if it is the active one. */
int qcow2_tree_share(struct qcow2 *q, const uint64_t *l1, uint32_t n);
/* Says "mine alone" where it is so, in the active table. */
int qcow2_tree_own(struct qcow2 *q);
/* Commits if much is dirty. */
int qcow2_tree_room(struct qcow2 *q);
