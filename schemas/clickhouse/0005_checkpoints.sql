-- The ledger: one row for each partition of a settled checkpoint. Offsets [from, to) of the partition gave messages data
-- messages; rows says what was stored of them by table, counters where the rest went, by reason.
-- There are no partitions, so that the token of a line counts in whatever month it is sent again.
CREATE TABLE IF NOT EXISTS checkpoints (
    pipeline  LowCardinality(String) COMMENT 'id of the pipeline',
    run       UInt128 COMMENT 'random for each group generation of a process' CODEC(ZSTD(1)),
    seq       UInt64 COMMENT 'grows by one within the run' CODEC(Delta, ZSTD(1)),
    topic     LowCardinality(String),
    topic_id  LowCardinality(String) COMMENT 'of Kafka: a topic made anew has another; empty if it cannot be read',
    partition Int32 CODEC(ZSTD(1)),
    `from`    Int64 COMMENT 'offset, inclusive' CODEC(Delta, ZSTD(1)),
    `to`      Int64 COMMENT 'offset, exclusive' CODEC(Delta, ZSTD(1)),
    messages  UInt64 COMMENT 'data messages in the range' CODEC(T64, ZSTD(1)),
    settled   DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC') COMMENT 'when all of it was stored and acknowledged' CODEC(Delta, ZSTD(1)),
    blob      String COMMENT 'state at the end of the range' CODEC(ZSTD(1)),
    rows      Map(LowCardinality(String), UInt64) COMMENT 'stored, by table' CODEC(ZSTD(1)),
    counters  Map(LowCardinality(String), Int64) COMMENT 'messages and rows that went elsewhere, by reason' CODEC(ZSTD(1)),
    INDEX checkpoint (run, seq) TYPE minmax GRANULARITY 1
)
ENGINE = MergeTree
ORDER BY (pipeline, topic, partition, settled, run, seq)
TTL settled + INTERVAL 2 YEAR
SETTINGS
    non_replicated_deduplication_window = 100000,
    replicated_deduplication_window = 100000,
    replicated_deduplication_window_seconds = 604800;
