/*
 * Inside of virtio: what the device model (virtio.c), its state (virtio_state.c) and the transport (virtio_pci.c) share.
 * All with dev.lock held, unless they say otherwise.
 */
#pragma once

#include "vm/virtio/virtio.h"

#define VIRTIO_NO_VECTOR VQ_NO_VECTOR

/* ISR bits, section 4.1.4.5. */
#define VIRTIO_ISR_QUEUE  1u
#define VIRTIO_ISR_CONFIG 2u

/* --- virtio.c --- */

void virtio_status_write(struct virtio *vdev, uint8_t value);
uint8_t virtio_status_read(const struct virtio *vdev);
void virtio_queue_enable(struct virtio *vdev, struct virtio_queue *queue);
void virtio_queue_reset(struct virtio *vdev, struct virtio_queue *queue);
void virtio_break_locked(struct virtio *vdev, const char *why);
void virtio_live_update(struct virtio *vdev);
/* Holds every queue for a reason, or ends that. */
void virtio_hold(struct virtio *vdev, uint8_t reason, bool on);
/* Any lock but isr_lock and below. */
void virtio_interrupt(struct virtio *vdev, uint16_t vector, uint8_t isr_bit);
uint8_t virtio_isr_take(struct virtio *vdev);

/* --- virtio_pci.c --- */

/* The PCI function: registers, capabilities, hooks. No lock. */
int virtio_pci_init(struct virtio *vdev, const char *id, const struct device_env *env);
/* Brings the doorbells in line with the queues and the BAR. */
void virtio_pci_doorbells(struct virtio *vdev);
