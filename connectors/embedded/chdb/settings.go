package chdb

import (
	"maps"
	"slices"
	"strconv"
	"strings"
)

// checkSettings returns the settings that the statement's connection gets.
func (e *Engine) checkSettings(r Request) (map[string]string, error) {
	out := map[string]string{}
	for name, value := range r.Settings {
		if !e.known[name] {
			return nil, exception(codeUnknownSetting, "UNKNOWN_SETTING", "Unknown setting '"+name+"'")
		}
		if r.ReadOnly && !readerMaySet(name, value) {
			return nil, exception(codeReadOnly, "READONLY", "Cannot modify '"+name+"' setting in readonly mode")
		}
		out[name] = value
	}
	if r.ReadOnly {
		delete(out, "readonly") // a reader has it already
	}
	return out, nil
}

// readerMaySet lists what a reader may change: how a result looks and how much of it there is, and limits downwards.
// It is a list of what is allowed, because the engine has some 1500 settings and gets new ones with every release.
func readerMaySet(name, value string) bool {
	// Not all that begins with format_ is harmless: schemas, templates and registries are files and addresses.
	for _, prefix := range []string{
		"output_format_", "format_csv_", "format_tsv_", "http_", "send_progress_in_http_", "max_result_",
		"max_rows_to_", "max_bytes_to_", "log_",
	} {
		if strings.HasPrefix(name, prefix) {
			return name != "output_format_schema" // a file that is written
		}
	}
	switch name {
	case "limit", "offset", "date_time_output_format", "date_time_input_format", "max_block_size", "result_overflow_mode",
		"read_overflow_mode", "timeout_overflow_mode", "extremes",
		"join_use_nulls", "session_timezone", "wait_end_of_query", "enable_http_compression", "use_uncompressed_cache",
		"cancel_http_readonly_queries_on_client_close", "final", "group_by_use_nulls", "prefer_column_name_to_alias",
		"totals_mode", "any_join_distinct_right_table_keys", "transform_null_in", "low_cardinality_allow_in_native_format",
		"allow_experimental_low_cardinality_type", "max_execution_time", "max_threads", "max_memory_usage":
		return true
	case "readonly":
		return value == "1" || value == "2"
	}
	return false
}

// bounded returns a reader's own value of a limit, if it is a lower one than ours. 0 is ClickHouse's "no limit".
func bounded(own string, limit float64) string {
	v, err := strconv.ParseFloat(own, 64)
	if err != nil || v <= 0 || v > limit {
		v = limit
	}
	return strconv.FormatFloat(v, 'f', -1, 64)
}

// readerLimits returns settings with the limits of a reader, or its own lower ones.
func (e *Engine) readerLimits(settings map[string]string) map[string]string {
	out := maps.Clone(settings)
	if out == nil {
		out = map[string]string{}
	}
	for name, limit := range map[string]float64{
		"max_execution_time": e.o.MaxReaderTime.Seconds(),
		"max_threads":        float64(e.o.ReaderThreads),
		"max_memory_usage":   float64(e.o.MaxReaderMemory),
	} {
		out[name] = bounded(out[name], limit)
	}
	out["readonly"] = "1" // one SET changes all of its settings or none, so the order does not count
	return out
}

// setStatement is the SET of the settings, or "" if there are none.
func setStatement(settings map[string]string) string {
	var sets []string
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		sets = append(sets, name+" = '"+escapeTSV(settings[name])+"'")
	}
	if sets == nil {
		return ""
	}
	return "SET " + strings.Join(sets, ", ")
}

// escapeTSV escapes a value for a TabSeparated field, which is also what stands between quotes in SQL.
func escapeTSV(s string) string {
	return strings.NewReplacer(`\`, `\\`, "\t", `\t`, "\n", `\n`, "\r", `\r`, "\x00", `\0`, "'", `\'`).Replace(s)
}

// quoteName makes an identifier of any text.
func quoteName(s string) string {
	return "`" + strings.NewReplacer(`\`, `\\`, "`", "\\`").Replace(s) + "`"
}
