-- One row per asset and window, scored or not; a correction of a window is a further row with a higher revision.
CREATE TABLE IF NOT EXISTS predictions (
    asset         LowCardinality(String),
    window_start  DateTime64(6, 'UTC') COMMENT 'inclusive' CODEC(Delta, ZSTD(1)),
    window_end    DateTime64(6, 'UTC') COMMENT 'exclusive' CODEC(Delta, ZSTD(1)),
    ts            DateTime64(6, 'UTC') COMMENT 'the last grid row of the window' CODEC(Delta, ZSTD(1)),
    ts_ingest     DateTime64(3, 'UTC') COMMENT 'newest arrival among the samples' CODEC(Delta, ZSTD(1)),
    n             UInt32 COMMENT 'grid rows present' CODEC(T64, ZSTD(1)),
    coverage      Float32 COMMENT 'share of the cells that hold a value, 0 to 1' CODEC(ZSTD(1)),
    model         LowCardinality(String),
    model_version LowCardinality(String),
    score         Nullable(Float32) COMMENT 'null with a reason' CODEC(ZSTD(1)),
    reason        LowCardinality(String) COMMENT 'why there is no score; empty if there is one',
    score_smooth  Nullable(Float32) COMMENT 'what was compared with the threshold' CODEC(ZSTD(1)),
    threshold     Nullable(Float32) CODEC(ZSTD(1)),
    is_anomaly    Bool COMMENT 'inside an event, after hysteresis and delays',
    outputs       Map(LowCardinality(String), Float32) COMMENT 'other outputs of the model' CODEC(ZSTD(1)),
    contrib       Map(LowCardinality(String), Float32) COMMENT 'channels with the largest share in the score' CODEC(ZSTD(1)),
    revision      UInt32 COMMENT '0 for the first result of a window' CODEC(T64, ZSTD(1)),
    k_topic       LowCardinality(String) COMMENT 'lineage: topic',
    k_part        Int32 COMMENT 'lineage: partition' CODEC(ZSTD(1)),
    k_first       Int64 COMMENT 'lineage: lowest offset among the samples; -1 if none' CODEC(Delta, ZSTD(1)),
    k_last        Int64 COMMENT 'lineage: highest offset among the samples; -1 if none' CODEC(Delta, ZSTD(1)),
    backfill      Bool COMMENT 'from a historical burst, not live',
    run           UInt128 COMMENT 'the run that wrote the row' CODEC(ZSTD(1)),
    seq           UInt64 COMMENT 'the checkpoint of the run' CODEC(Delta, ZSTD(1)),
    block         UInt32 COMMENT 'the block of the checkpoint: one INSERT' CODEC(ZSTD(1)),
    INDEX checkpoint (run, seq) TYPE minmax GRANULARITY 1
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(ts)
ORDER BY (asset, model, model_version, ts, window_start, window_end, revision)
TTL ts_ingest + INTERVAL 2 YEAR
SETTINGS
    non_replicated_deduplication_window = 100000,
    replicated_deduplication_window = 100000,
    replicated_deduplication_window_seconds = 604800;

-- The newest word on each window. It does not lean on merges. ts follows from window_end; it is in the key so that a
-- condition on it reads no more than its months.
CREATE VIEW IF NOT EXISTS predictions_latest AS
SELECT *
FROM predictions
ORDER BY asset, model, model_version, ts, window_start, window_end, revision DESC
LIMIT 1 BY asset, model, model_version, ts, window_start, window_end;
