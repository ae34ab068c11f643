//! The session variables of MySQL 8.0 that a session can set, by its documentation.
//!
//! MySQL 8.0 does not tell which of its variables are a session's: `performance_schema.session_variables` has the
//! global ones as well (MySQL 8.0 Reference Manual, "Performance Schema System Variable Tables"), and a table that says
//! it came with 9.x. So those of the manual's "Server System Variables", "InnoDB System Variables" and "Replication and
//! Binary Logging Options and Variables" whose scope is "Session" or "Both", and which are dynamic, are written down
//! here; a CN has the ones that it names itself. One that is missing here, of a later release or of a plugin, pins the
//! session that sets it, because a tracker tells of it: nothing is lost unseen.

use crate::engine::mysql::catalog::Kind;

/// Those whose value is a number.
const NUMBERS: &[&str] = &[
    "auto_increment_increment",
    "auto_increment_offset",
    "autocommit",
    "big_tables",
    "binlog_direct_non_transactional_updates",
    "binlog_rows_query_log_events",
    "bulk_insert_buffer_size",
    "connection_memory_chunk_size",
    "connection_memory_limit",
    "cte_max_recursion_depth",
    "default_week_format",
    "div_precision_increment",
    "end_markers_in_json",
    "eq_range_index_dive_limit",
    "explicit_defaults_for_timestamp",
    "foreign_key_checks",
    "generated_random_password_length",
    "global_connection_memory_tracking",
    "group_concat_max_len",
    "histogram_generation_max_mem_size",
    "identity",
    "information_schema_stats_expiry",
    "innodb_ddl_buffer_size",
    "innodb_ddl_threads",
    "innodb_ft_enable_stopword",
    "innodb_lock_wait_timeout",
    "innodb_parallel_read_threads",
    "innodb_strict_mode",
    "innodb_table_locks",
    "insert_id",
    "interactive_timeout",
    "join_buffer_size",
    "keep_files_on_create",
    "last_insert_id",
    "lock_wait_timeout",
    "long_query_time",
    "low_priority_updates",
    "max_delayed_threads",
    "max_error_count",
    "max_execution_time",
    "max_heap_table_size",
    "max_insert_delayed_threads",
    "max_join_size",
    "max_length_for_sort_data",
    "max_points_in_geometry",
    "max_seeks_for_key",
    "max_sort_length",
    "max_sp_recursion_depth",
    "min_examined_row_limit",
    "myisam_repair_threads",
    "myisam_sort_buffer_size",
    "net_read_timeout",
    "net_retry_count",
    "net_write_timeout",
    "new",
    "old_alter_table",
    "optimizer_prune_level",
    "optimizer_search_depth",
    "optimizer_trace_limit",
    "optimizer_trace_max_mem_size",
    "optimizer_trace_offset",
    "parser_max_mem_size",
    "preload_buffer_size",
    "print_identified_with_as_hex",
    "profiling",
    "profiling_history_size",
    "pseudo_replica_mode",
    "pseudo_slave_mode",
    "pseudo_thread_id",
    "query_alloc_block_size",
    "query_prealloc_size",
    "rand_seed1",
    "rand_seed2",
    "range_alloc_block_size",
    "range_optimizer_max_mem_size",
    "read_buffer_size",
    "read_rnd_buffer_size",
    "require_row_format",
    "restrict_fk_on_non_standard_key",
    "secondary_engine_cost_threshold",
    "select_into_buffer_size",
    "select_into_disk_sync",
    "select_into_disk_sync_delay",
    "session_track_schema",
    "session_track_state_change",
    "set_operations_buffer_size",
    "show_create_table_skip_secondary_engine",
    "show_create_table_verbosity",
    "show_gipk_in_create_table_and_information_schema",
    "show_old_temporals",
    "sort_buffer_size",
    "sql_auto_is_null",
    "sql_big_selects",
    "sql_buffer_result",
    "sql_generate_invisible_primary_key",
    "sql_log_bin",
    "sql_log_off",
    "sql_notes",
    "sql_quote_show_create",
    "sql_require_primary_key",
    "sql_safe_updates",
    "sql_select_limit",
    "sql_warnings",
    "timestamp",
    "tmp_table_size",
    "transaction_alloc_block_size",
    "transaction_prealloc_size",
    "transaction_read_only",
    "unique_checks",
    "wait_timeout",
    "windowing_use_high_precision",
    "xa_detach_on_prepare",
];

/// Those whose value is a word, a set of words, or text.
const TEXTS: &[&str] = &[
    "binlog_format",
    "binlog_row_image",
    "binlog_row_value_options",
    "block_encryption_mode",
    "character_set_client",
    "character_set_connection",
    "character_set_database",
    "character_set_filesystem",
    "character_set_results",
    "character_set_server",
    "collation_connection",
    "collation_database",
    "collation_server",
    "completion_type",
    "default_collation_for_utf8mb4",
    "default_storage_engine",
    "default_tmp_storage_engine",
    "explain_format",
    "explain_json_format_version",
    "gtid_next",
    "innodb_ft_user_stopword_table",
    "innodb_tmpdir",
    "internal_tmp_mem_storage_engine",
    "lc_messages",
    "lc_time_names",
    "myisam_stats_method",
    "optimizer_switch",
    "optimizer_trace",
    "optimizer_trace_features",
    "rbr_exec_mode",
    "resultset_metadata",
    "session_track_gtids",
    "session_track_system_variables",
    "session_track_transaction_info",
    "sql_mode",
    "terminology_use_previous",
    "time_zone",
    "transaction_isolation",
    "transaction_write_set_extraction",
    "updatable_views_with_limit",
    "use_secondary_engine",
];

/// What the variable of this name is written as. `None` where no session can set it, as far as is documented.
pub(super) fn kind(name: &str) -> Option<Kind> {
    let of = |names: &[&str], kind| names.binary_search(&name).ok().map(|_| kind);
    of(NUMBERS, Kind::Number).or_else(|| of(TEXTS, Kind::Text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_in_order_and_once() {
        assert!(NUMBERS.is_sorted_by(|a, b| a < b) && TEXTS.is_sorted_by(|a, b| a < b));
        assert!(!NUMBERS.iter().any(|name| TEXTS.contains(name)));
        assert_eq!(kind("sql_mode"), Some(Kind::Text));
        assert_eq!(kind("max_join_size"), Some(Kind::Number));
        assert_eq!(kind("innodb_buffer_pool_size"), None);
        // Read-only in a session.
        assert_eq!(kind("max_allowed_packet"), None);
    }
}
