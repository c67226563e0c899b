// Package schemas is the vocabulary of Tailrace: the Arrow schemas that travel between its stages, the quality model,
// the topic and table contracts and the ClickHouse migrations. It imports no other package of the project.
package schemas

import "github.com/apache/arrow/go/v15/arrow"

// Columns of telemetry.v1, in order. They are the positions in [Telemetry] and in every record that has it.
const (
	ColTS       = iota // event time, ns UTC
	ColTSIngest        // arrival: the record's append time, ns UTC
	ColTSKind          // which clock ColTS came from, see TimeSource
	ColAsset           // ISA-95 path enterprise.site.area.line.cell[.device]
	ColTag             // signal inside the asset
	ColVType           // what the source sent, see ValueType
	ColValue           // numeric view of bool, int and float; null if there is none
	ColValueInt        // exact integers and counters; null otherwise
	ColValueStr        // strings and enum texts; null otherwise
	ColQuality         // see Quality
	ColStatus          // OPC UA StatusCode, lossless
	ColFlags           // see Flag
	ColUnit            // UNECE Recommendation 20 code; null if unknown
	ColSrc             // edge node or publisher; "" if the source names none
	ColSrcSeq          // the source's own sequence number; 0 if it has none
	ColKTopic          // lineage: Kafka topic
	ColKPart           // lineage: partition
	ColKOffset         // lineage: offset of the message
	ColKIdx            // lineage: index of the value inside the message
	telemetryColumns
)

// TimeSource says which clock gave the event time.
type TimeSource uint8

// The clocks, from the nearest to the process to the farthest.
const (
	TimeFromSource  TimeSource = 0
	TimeFromGateway TimeSource = 1
	TimeFromPayload TimeSource = 2
	TimeFromKafka   TimeSource = 3
	TimeFromIngest  TimeSource = 4
)

// ValueType is the type that the source sent.
type ValueType uint8

// The types of values.
const (
	TypeNull   ValueType = 0
	TypeBool   ValueType = 1
	TypeInt    ValueType = 2
	TypeUint   ValueType = 3
	TypeFloat  ValueType = 4
	TypeString ValueType = 5
	TypeBytes  ValueType = 6
	TypeArray  ValueType = 7
)

// Quality is the normalised quality: the severity bits of an OPC UA StatusCode (OPC 10000-4, StatusCode), turned so
// that larger is better.
type Quality uint8

// The three qualities.
const (
	Bad       Quality = 0
	Uncertain Quality = 1
	Good      Quality = 2
)

// Flag marks what happened to a value on its way. Flags combine.
type Flag uint32

// The flags of telemetry.v1.
const (
	FlagHistorical   Flag = 1
	FlagStale        Flag = 2
	FlagFilled       Flag = 4
	FlagInterpolated Flag = 8
	FlagClamped      Flag = 16
	FlagLimitLo      Flag = 32
	FlagLimitHi      Flag = 64
	FlagOverflow     Flag = 128
	FlagLate         Flag = 256
	FlagClockSuspect Flag = 512
	FlagCounterReset Flag = 1024
	FlagOutOfRange   Flag = 2048
	FlagSimulated    Flag = 4096
	FlagNotFinite    Flag = 8192
)

// Dict is the type of a column of few distinct texts. Indexes are int32 into the record's own dictionary.
var Dict = &arrow.DictionaryType{IndexType: arrow.PrimitiveTypes.Int32, ValueType: arrow.BinaryTypes.String}

// NanosUTC is the type of every time: nanoseconds since 1970-01-01 UTC.
var NanosUTC = &arrow.TimestampType{Unit: arrow.Nanosecond, TimeZone: "UTC"}

var telemetry = arrow.NewSchema([]arrow.Field{
	ColTS:       {Name: "ts", Type: NanosUTC},
	ColTSIngest: {Name: "ts_ingest", Type: NanosUTC},
	ColTSKind:   {Name: "ts_kind", Type: arrow.PrimitiveTypes.Uint8},
	ColAsset:    {Name: "asset", Type: Dict},
	ColTag:      {Name: "tag", Type: Dict},
	ColVType:    {Name: "vtype", Type: arrow.PrimitiveTypes.Uint8},
	ColValue:    {Name: "value", Type: arrow.PrimitiveTypes.Float64, Nullable: true},
	ColValueInt: {Name: "value_int", Type: arrow.PrimitiveTypes.Int64, Nullable: true},
	ColValueStr: {Name: "value_str", Type: arrow.BinaryTypes.String, Nullable: true},
	ColQuality:  {Name: "quality", Type: arrow.PrimitiveTypes.Uint8},
	ColStatus:   {Name: "status", Type: arrow.PrimitiveTypes.Uint32},
	ColFlags:    {Name: "flags", Type: arrow.PrimitiveTypes.Uint32},
	ColUnit:     {Name: "unit", Type: Dict, Nullable: true},
	ColSrc:      {Name: "src", Type: Dict},
	ColSrcSeq:   {Name: "src_seq", Type: arrow.PrimitiveTypes.Uint64},
	ColKTopic:   {Name: "k_topic", Type: Dict},
	ColKPart:    {Name: "k_part", Type: arrow.PrimitiveTypes.Int32},
	ColKOffset:  {Name: "k_offset", Type: arrow.PrimitiveTypes.Int64},
	ColKIdx:     {Name: "k_idx", Type: arrow.PrimitiveTypes.Int32},
}, &arrow.Metadata{})

// Telemetry is the schema telemetry.v1: long form, one row per value of one tag of one asset.
func Telemetry() *arrow.Schema { return telemetry }
