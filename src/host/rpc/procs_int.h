/* What the handlers of src/host/rpc share. */
#pragma once

#include "host/rpc/server_int.h"

/* The machine that a call speaks of, by its UUID; the call holds a reference. NULL: err and call->what are set. */
struct domain *rpc_call_domain(struct rpc_call *call, const w_dom *arg, struct error *err);
/* The same, and it runs: otherwise -EBADFD. */
struct domain *rpc_call_running(struct rpc_call *call, const w_dom *arg, struct error *err);

/* Fills a handle on the wire; -ENOMEM. */
int rpc_put_dom(w_dom *ret, const struct domain *dom, struct error *err);
/* Copies text into *ret; -ENOMEM. text NULL is no memory, too. */
int rpc_put_text(w_text *ret, const char *text, struct error *err);
/* Takes over heap text. */
int rpc_take_text(w_text *ret, char *text, struct error *err);
/* Flags that a procedure does not know are refused, as libvirt does. */
int rpc_check_flags(struct rpc_call *call, unsigned flags, unsigned known, struct error *err);

/* Typed parameters, appended to a growing array. */
struct rpc_params {
	w_param *array;
	u_int count, room;
	bool failed; /* out of memory */
};
void rpc_params_int(struct rpc_params *params, int type, uint64_t value, const char *name, ...)
	__attribute__((format(printf, 4, 5)));
void rpc_params_text(struct rpc_params *params, const char *text, const char *name, ...)
	__attribute__((format(printf, 3, 4)));
void rpc_params_free(struct rpc_params *params);

/* --- every handler --- */

rpc_handler rpc_domain_monitor_command; /* of program qemu */
rpc_handler rpc_auth_list, rpc_connect_get_capabilities, rpc_connect_get_domain_capabilities,
	rpc_connect_get_hostname, rpc_connect_get_lib_version, rpc_connect_get_max_vcpus,
	rpc_connect_get_type, rpc_connect_get_uri, rpc_connect_get_version, rpc_connect_is_secure,
	rpc_connect_open, rpc_connect_supports_feature, rpc_domain_create, rpc_domain_create_flags,
	rpc_domain_create_xml, rpc_domain_define, rpc_domain_define_flags, rpc_domain_destroy,
	rpc_domain_destroy_flags, rpc_domain_events_deregister, rpc_domain_events_register,
	rpc_domain_get_autostart, rpc_domain_get_block_info, rpc_domain_get_control_info,
	rpc_domain_get_info, rpc_domain_get_job_stats, rpc_domain_get_max_memory,
	rpc_domain_get_max_vcpus, rpc_domain_get_metadata, rpc_domain_get_os_type,
	rpc_domain_get_scheduler_type, rpc_domain_get_state, rpc_domain_get_vcpus,
	rpc_domain_get_vcpus_flags, rpc_domain_get_xml, rpc_domain_has_none, rpc_domain_inject_nmi,
	rpc_domain_is_active, rpc_domain_is_persistent, rpc_domain_is_updated, rpc_domain_list_all,
	rpc_domain_list_defined, rpc_domain_list_ids, rpc_domain_lookup_by_id,
	rpc_domain_lookup_by_name, rpc_domain_lookup_by_uuid, rpc_domain_memory_stats,
	rpc_domain_num_active, rpc_domain_num_defined, rpc_domain_open_console, rpc_domain_reboot,
	rpc_domain_rename, rpc_domain_reset, rpc_domain_resume, rpc_domain_set_autostart,
	rpc_domain_set_metadata, rpc_domain_shutdown, rpc_domain_shutdown_flags, rpc_domain_stats,
	rpc_domain_suspend, rpc_domain_undefine, rpc_domain_undefine_flags,
	rpc_network_events_deregister, rpc_network_events_register,
	rpc_node_device_events_deregister, rpc_node_device_events_register,
	rpc_node_get_cells_free_memory, rpc_node_get_cpu_map, rpc_node_get_cpu_stats,
	rpc_node_get_free_memory, rpc_node_get_info, rpc_node_get_memory_stats,
	rpc_node_get_security_model, rpc_none, rpc_pool_build, rpc_pool_capabilities,
	rpc_pool_create, rpc_pool_create_xml, rpc_pool_define, rpc_pool_delete, rpc_pool_destroy,
	rpc_pool_events_deregister, rpc_pool_events_register, rpc_pool_get_autostart,
	rpc_pool_get_info, rpc_pool_get_xml, rpc_pool_is_active, rpc_pool_is_persistent,
	rpc_pool_list_active, rpc_pool_list_all, rpc_pool_list_all_volumes, rpc_pool_list_defined,
	rpc_pool_list_volumes, rpc_pool_lookup_by_name, rpc_pool_lookup_by_path,
	rpc_pool_lookup_by_uuid, rpc_pool_lookup_by_volume, rpc_pool_num_active,
	rpc_pool_num_defined, rpc_pool_num_volumes, rpc_pool_refresh, rpc_pool_set_autostart,
	rpc_pool_undefine, rpc_secret_events_deregister, rpc_secret_events_register,
	rpc_volume_create, rpc_volume_create_from, rpc_volume_delete, rpc_volume_download,
	rpc_volume_get_info, rpc_volume_get_info_flags, rpc_volume_get_path, rpc_volume_get_xml,
	rpc_volume_lookup_by_name, rpc_volume_lookup_by_path, rpc_volume_resize, rpc_volume_upload,
	rpc_volume_wipe, rpc_volume_wipe_pattern;
