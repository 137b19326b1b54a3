package metrics

// The metrics that kube-proxy has, too; dashboards, alerts and scale tests read them. Those without a comment have the label
// ip_family.
const (
	SyncDuration           = "kubeproxy_sync_proxy_rules_duration_seconds"
	FullSyncDuration       = "kubeproxy_sync_full_proxy_rules_duration_seconds"
	PartialSyncDuration    = "kubeproxy_sync_partial_proxy_rules_duration_seconds"
	LastSync               = "kubeproxy_sync_proxy_rules_last_timestamp_seconds"
	LastQueued             = "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds"
	NetworkProgramming     = "kubeproxy_network_programming_duration_seconds"
	EndpointChangesPending = "kubeproxy_sync_proxy_rules_endpoint_changes_pending" // no label
	EndpointChanges        = "kubeproxy_sync_proxy_rules_endpoint_changes_total"   // no label
	ServiceChangesPending  = "kubeproxy_sync_proxy_rules_service_changes_pending"  // no label
	ServiceChanges         = "kubeproxy_sync_proxy_rules_service_changes_total"    // no label
	NoLocalEndpoints       = "kubeproxy_sync_proxy_rules_no_local_endpoints_total" // traffic_policy, ip_family; a gauge
	HealthzAnswers         = "kubeproxy_proxy_healthz_total"                       // code
	LivezAnswers           = "kubeproxy_proxy_livez_total"                         // code
	ConntrackDuration      = "kubeproxy_conntrack_reconciler_sync_duration_seconds"
	ConntrackDeleted       = "kubeproxy_conntrack_reconciler_deleted_entries_total"
)

// The metrics of our own. Those without a comment have the label ip_family.
const (
	Programmed       = "turnout_programmed"
	Rejected         = "turnout_rejected_services"
	SyncFailures     = "turnout_sync_failures_total"
	TableRepairs     = "turnout_table_repairs_total"
	ApplyOperations  = "turnout_apply_operations"
	FullSyncs        = "turnout_full_syncs_total" // ip_family, reason
	Services         = "turnout_services"
	Endpoints        = "turnout_endpoints"
	Frontends        = "turnout_frontends"
	AffinitySwept    = "turnout_affinity_entries_swept_total"
	ManifestProblems = "turnout_manifest_problems" // no label
	// Of the configuration file; no label.
	ConfigReloads      = "turnout_config_reloads_total"
	ConfigReloadErrors = "turnout_config_reload_errors_total"
	ConfigFileInUse    = "turnout_config_file_in_use"
)

// FullSyncReason is why a sync rebuilt everything; the closed list keeps the number of series small.
type FullSyncReason string

// The reasons for a full sync.
const (
	ReasonStart   FullSyncReason = "start"   // the first sync of the process
	ReasonError   FullSyncReason = "error"   // the sync before it failed
	ReasonForeign FullSyncReason = "foreign" // somebody else changed what is ours
	ReasonLayout  FullSyncReason = "layout"  // rules for the whole node are others, or a map became too small
)

var reasons = []FullSyncReason{ReasonStart, ReasonError, ReasonForeign, ReasonLayout}
