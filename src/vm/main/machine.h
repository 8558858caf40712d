/*
 * One virtual machine: its parts, how they are put together and taken apart, and its life between. Everything here is
 * called on the main thread; devices and vCPUs reach it through host_glue.h.
 */
#pragma once

#include "base/error.h"
#include "base/loop.h"
#include "image/image.h"
#include "spec/spec.h"
#include "vm/bus/device.h"
#include "vm/bus/pci.h"
#include "vm/char/chardev.h"
#include "vm/main/host_glue.h"
#include "vm/main/vcpus.h"
#include "vm/monitor/qmp.h"
#include "vm/net/net.h"

/* How vireo-vmm ends; also in vireo-vmm(1). */
enum machine_exit {
	MACHINE_EXIT_OK =
		0, /* the guest powered off, or restarted under --no-reboot, or QMP quit */
	MACHINE_EXIT_FAILED = 1,   /* the host failed it while it ran */
	MACHINE_EXIT_USAGE = 2,    /* bad configuration: it never started */
	MACHINE_EXIT_PANICKED = 3, /* the guest's kernel panicked */
};

#define MACHINE_MAX_DEVICES (SPEC_MAX_DISKS + SPEC_MAX_NETS + 24)

struct machine_disk {
	struct image *image;
	struct device *dev;
	const struct spec_disk *spec;
	struct loop_thread *io; /* its own loop, or NULL */
};

struct machine_net {
	struct net_backend *backend; /* the device's own */
	struct device *dev;
	struct loop_thread *io;
};

struct machine {
	const struct spec *spec;
	struct loop *loop;
	struct host_glue glue;
	struct loop_fd signals; /* a signalfd */

	struct gmem *mem;
	struct accel *accel;
	struct vcpus *vcpus;
	struct bus *bus;
	struct pci_bus *pci;
	struct device_env env; /* for devices of the main loop */
	uint64_t window64_base, window64_end;

	/* In the order of creation; torn down backwards. */
	struct device *devices[MACHINE_MAX_DEVICES];
	size_t n_devices;
	struct device *pm;      /* ACPI power management: the power button */
	struct device *balloon; /* or NULL */
	struct machine_disk disks[SPEC_MAX_DISKS];
	struct machine_net nets[SPEC_MAX_NETS];
	struct chardev *serial, *console;
	uint64_t vmgenid_gpa;     /* 0: none */
	int kernel_fd, initrd_fd; /* what a reset loads again; -1: none */

	struct qmp *qmp; /* or NULL */
	struct qmp_target qmp_target;

	bool started; /* vCPUs have run once */
	bool running;
	bool frozen; /* vCPUs, clock and devices are stopped */
	bool panicked;
	bool ending; /* the loop is about to quit */
	int exit_status;
};

/* --- build.c --- */

/* Phases in order: memory, cpus, buses, backends, devices, firmware. On failure what was built is still to be given to
 * machine_teardown(). The spec stays borrowed. */
int machine_build(struct machine *m, const struct spec *spec, struct loop *loop, struct error *err);
void machine_teardown(struct machine *m);
/* Loads the boot images and tables and sets the boot processor; at start and after each reset. */
int machine_load_firmware(struct machine *m, struct error *err);

/* --- devices.c --- */

/* Makes the backends and devices that the spec names; part of machine_build(). */
int machine_add_devices(struct machine *m, struct error *err);
/* Network helpers that start in the background are up, or err says why not; the last phase of building. */
int machine_wait_nets(struct machine *m, struct error *err);
void machine_free_backends(struct machine *m);

/* --- life.c --- */

void machine_life_init(
	struct machine *m); /* before machine_build(): requests and signals have a place to go */
int machine_watch_signals(struct machine *m, struct error *err);
void machine_start(struct machine *m);
/* Harmless when it is so already. */
void machine_stop(struct machine *m);
void machine_cont(struct machine *m);
void machine_reset(struct machine *m);
void machine_powerdown(struct machine *m);
/* Ends the main loop; the first caller's status counts. reason: as in QMP's ShutdownCause. */
void machine_end(struct machine *m, int status, bool by_guest, const char *reason);

/* --- control.c --- */

/* Fills m->qmp_target and opens the socket when the spec names one. */
int machine_open_qmp(struct machine *m, struct error *err);
