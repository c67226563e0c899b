package schemas

// Topics that Tailrace writes. A prefix may stand before each.
const (
	TopicEvents      = "anomaly.events.v1"    // Event as JSON, key = asset
	TopicLate        = "pipeline.late.v1"     // LateRow as JSON, key = asset: rows that came too late for any result
	TopicRekeyed     = "telemetry.rekeyed.v1" // rows of telemetry.v1 as JSON, key = asset: see schemas/formats/rekeyed
	TopicDeadLetters = "pipeline.dlq.v1"      // the bytes of a refused message, with HeaderErrorCode and its kin
)

// Headers of a dead letter, beside the headers that the message came with.
const (
	HeaderErrorCode    = "error-code"    // see the dead letter reasons
	HeaderError        = "error"         // the sentence
	HeaderStage        = "stage"         // "decode", or "sink" for a row that the store refuses
	HeaderSrcTopic     = "src-topic"     //
	HeaderSrcPartition = "src-partition" //
	HeaderSrcOffset    = "src-offset"    //
	HeaderSrcTimestamp = "src-timestamp" // the record's time, RFC 3339 with ns
	HeaderPipeline     = "pipeline"      //
	HeaderTruncated    = "truncated"     // "true" if the value is only the first 64 KiB
	HeaderSrcLength    = "src-length"    // bytes of the whole value, with HeaderTruncated
	HeaderSrcSHA256    = "src-sha256"    // of the whole value, lowercase hex, with HeaderTruncated
)

// HeaderReplayedFrom is on a message that was sent back to the topic it came from: the dead letter's partition and
// offset, with a slash between them.
const HeaderReplayedFrom = "replayed-from"

// Reasons of dead letters.
const (
	DeadInvalidJSON = "invalid_json"  // the bytes are not JSON
	DeadWrongType   = "wrong_type"    // a field is there with another type
	DeadMissing     = "missing_field" // a required field is absent
	DeadOutOfRange  = "out_of_range"  // a time or number that does not fit its column
	DeadTooLarge    = "too_large"     // the message is over the decoder's limit
	DeadCardinality = "cardinality"   // one asset or tag more than the limit
	DeadRefused     = "refused"       // the store refuses the row; the value is the row as JSON
	DeadUnreadable  = "unreadable"    // the value is a Kafka record batch whose records can't be read
)
