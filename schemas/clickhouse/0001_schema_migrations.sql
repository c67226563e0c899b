-- What was applied, and from which text. A version may be there twice if two processes applied at once: readers group.
CREATE TABLE IF NOT EXISTS schema_migrations (
    version    UInt32,
    name       String,
    sha256     FixedString(64),
    applied_at DateTime64(3, 'UTC')
)
ENGINE = MergeTree
ORDER BY version
SETTINGS
    non_replicated_deduplication_window = 100000,
    replicated_deduplication_window = 100000,
    replicated_deduplication_window_seconds = 604800;
