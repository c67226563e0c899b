-- Two rows per event, firing and resolved, with one event_id; count events with uniqExact(event_id).
CREATE TABLE IF NOT EXISTS anomaly_events (
    event_id                 String,
    event_seq                UInt8 COMMENT '0 when it opened, 1 when it closed',
    status                   LowCardinality(String) COMMENT 'firing or resolved',
    pipeline                 LowCardinality(String),
    detector                 LowCardinality(String),
    asset                    LowCardinality(String),
    signal                   LowCardinality(String),
    class                    LowCardinality(String),
    onset_ts                 DateTime64(6, 'UTC') COMMENT 'end of the first window of the event',
    event_ts                 DateTime64(6, 'UTC') COMMENT 'end of the window that opened or closed it',
    detected_ts              DateTime64(6, 'UTC') COMMENT 'arrival of the newest sample the decision rests on',
    cleared_ts               Nullable(DateTime64(6, 'UTC')) COMMENT 'null while it is open',
    peak_ts                  DateTime64(6, 'UTC') COMMENT 'end of the window with the highest score',
    score                    Float64 COMMENT 'at the peak',
    smoothed                 Float64 COMMENT 'at the peak, what was compared with the threshold',
    threshold                Float64,
    score_kind               LowCardinality(String),
    model                    LowCardinality(String),
    model_version            LowCardinality(String),
    model_sha256             LowCardinality(String),
    `contributions.tag`      Array(LowCardinality(String)) COMMENT 'at the peak, largest share first',
    `contributions.share`    Array(Float64),
    `contributions.observed` Array(Float64) COMMENT 'in contributions.unit',
    `contributions.expected` Array(Float64) COMMENT 'in contributions.unit',
    `contributions.unit`     Array(LowCardinality(String)),
    window_start             DateTime64(6, 'UTC') COMMENT 'the window at event_ts',
    window_end               DateTime64(6, 'UTC'),
    window_n                 UInt32 COMMENT 'grid rows present',
    window_coverage          Float64 COMMENT '0 to 1',
    backfill                 Bool,
    test                     Bool,
    k_topic                  LowCardinality(String) COMMENT 'lineage: topic',
    k_part                   Int32 COMMENT 'lineage: partition',
    k_first                  Int64 COMMENT 'lineage: lowest offset under the event',
    k_last                   Int64 COMMENT 'lineage: highest offset under the event',
    run                      UInt128 COMMENT 'the run that wrote the row',
    seq                      UInt64 COMMENT 'the checkpoint of the run',
    block                    UInt32 COMMENT 'the block of the checkpoint: one INSERT',
    event                    String COMMENT 'the whole record as JSON, as on the topic' CODEC(ZSTD(3)),
    INDEX checkpoint (run, seq) TYPE minmax GRANULARITY 1
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(event_ts)
ORDER BY (asset, event_ts, event_id, event_seq)
TTL detected_ts + INTERVAL 10 YEAR
SETTINGS
    non_replicated_deduplication_window = 100000,
    replicated_deduplication_window = 100000,
    replicated_deduplication_window_seconds = 604800;
