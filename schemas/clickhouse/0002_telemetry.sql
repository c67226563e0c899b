-- Every decoded row, late ones too (flags has 256). A plain MergeTree, so that a doubled row can be seen: two rows with
-- the same k_topic, k_part, k_offset and k_idx.
-- The TTL counts from arrival, so that late history does not expire at the door. It is a DateTime64, which wraps in no
-- year that a clock can show.
-- The index finds the rows of one checkpoint, and halves of a block among them, without reading a month.
-- The deduplication windows outlast a week of outage: a retried block must still meet its token.
CREATE TABLE IF NOT EXISTS telemetry (
    ts        DateTime64(6, 'UTC') COMMENT 'event time' CODEC(Delta, ZSTD(1)),
    ts_ingest DateTime64(3, 'UTC') COMMENT 'arrival: when Kafka took the message' CODEC(Delta, ZSTD(1)),
    ts_kind   UInt8 COMMENT 'which clock ts is from: 0 source, 1 gateway, 2 payload, 3 Kafka, 4 ingest',
    asset     LowCardinality(String) COMMENT 'enterprise.site.area.line.cell[.device]',
    tag       LowCardinality(String) COMMENT 'signal inside the asset',
    vtype     UInt8 COMMENT 'what the source sent: 0 null, 1 bool, 2 int, 3 uint, 4 float, 5 string, 6 bytes, 7 array',
    value     Nullable(Float64) COMMENT 'bool, int and float as a number, in unit' CODEC(Gorilla, ZSTD(1)),
    value_int Nullable(Int64) COMMENT 'integers and counters, exact' CODEC(ZSTD(1)),
    value_str Nullable(String) COMMENT 'texts' CODEC(ZSTD(1)),
    quality   UInt8 COMMENT '0 bad, 1 uncertain, 2 good',
    status    UInt32 COMMENT 'OPC UA StatusCode' CODEC(T64, ZSTD(1)),
    flags     UInt32 COMMENT 'bits: 1 historical, 2 stale, 4 filled, 8 interpolated, 16 clamped, 32 limit low, 64 limit high, 128 overflow, 256 late, 512 clock suspect, 1024 counter reset, 2048 out of range, 4096 simulated, 8192 not finite' CODEC(T64, ZSTD(1)),
    unit      LowCardinality(String) COMMENT 'UNECE Recommendation 20 code; empty if unknown',
    src       LowCardinality(String) COMMENT 'edge node or publisher; empty if unknown',
    src_seq   UInt64 COMMENT 'sequence number of the source; 0 if it has none' CODEC(Delta, ZSTD(1)),
    k_topic   LowCardinality(String) COMMENT 'lineage: topic',
    k_part    Int32 COMMENT 'lineage: partition' CODEC(ZSTD(1)),
    k_offset  Int64 COMMENT 'lineage: offset of the message' CODEC(Delta, ZSTD(1)),
    k_idx     UInt32 COMMENT 'lineage: place of the value in the message' CODEC(T64, ZSTD(1)),
    run       UInt128 COMMENT 'the run that wrote the row' CODEC(ZSTD(1)),
    seq       UInt64 COMMENT 'the checkpoint of the run' CODEC(Delta, ZSTD(1)),
    block     UInt32 COMMENT 'the block of the checkpoint: one INSERT' CODEC(ZSTD(1)),
    INDEX checkpoint (run, seq) TYPE minmax GRANULARITY 1
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(ts)
ORDER BY (asset, tag, ts, k_topic, k_part, k_offset, k_idx)
TTL ts_ingest + INTERVAL 90 DAY
SETTINGS
    non_replicated_deduplication_window = 100000,
    replicated_deduplication_window = 100000,
    replicated_deduplication_window_seconds = 604800;
