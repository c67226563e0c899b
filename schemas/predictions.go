package schemas

import "github.com/apache/arrow/go/v15/arrow"

// Columns of predictions.v1, in order.
const (
	PredAsset = iota
	PredWindowStart
	PredWindowEnd
	PredTS           // time of the window's last grid row
	PredTSIngest     // newest arrival among the window's samples
	PredN            // grid rows present
	PredCoverage     // 0 to 1
	PredModel        //
	PredModelVersion //
	PredScore        // null with a reason
	PredReason       // "" if there is a score
	PredScoreSmooth  // the score that detect compared, after smoothing; null without a score or a detect step
	PredThreshold    // the threshold to enter an event; null without a detect step
	PredIsAnomaly    // inside an event, after hysteresis and delays
	PredOutputs      // the model's other scalar outputs
	PredContrib      // the channels with the largest shares
	PredRevision     // 0 for a window's first result, higher for a correction
	PredKFirst       // lowest offset among the window's samples, -1 if none
	PredKLast        // highest
	PredBackfill     // from a historical burst, not live
	predictionsColumns
)

var predictions = arrow.NewSchema([]arrow.Field{
	PredAsset:        {Name: NameAsset, Type: Dict},
	PredWindowStart:  {Name: NameWindowStart, Type: NanosUTC},
	PredWindowEnd:    {Name: NameWindowEnd, Type: NanosUTC},
	PredTS:           {Name: NameTS, Type: NanosUTC},
	PredTSIngest:     {Name: NameTSIngest, Type: NanosUTC},
	PredN:            {Name: NameN, Type: arrow.PrimitiveTypes.Int32},
	PredCoverage:     {Name: NameCoverage, Type: arrow.PrimitiveTypes.Float32},
	PredModel:        {Name: "model", Type: Dict},
	PredModelVersion: {Name: "model_version", Type: Dict},
	PredScore:        {Name: NameScore, Type: arrow.PrimitiveTypes.Float32, Nullable: true},
	PredReason:       {Name: NameReason, Type: Dict},
	PredScoreSmooth:  {Name: "score_smooth", Type: arrow.PrimitiveTypes.Float32, Nullable: true},
	PredThreshold:    {Name: "threshold", Type: arrow.PrimitiveTypes.Float32, Nullable: true},
	PredIsAnomaly:    {Name: "is_anomaly", Type: arrow.FixedWidthTypes.Boolean},
	PredOutputs:      {Name: NameOutputs, Type: arrow.MapOf(arrow.BinaryTypes.String, arrow.PrimitiveTypes.Float32)},
	PredContrib:      {Name: NameContrib, Type: arrow.MapOf(arrow.BinaryTypes.String, arrow.PrimitiveTypes.Float32)},
	PredRevision:     {Name: NameRevision, Type: arrow.PrimitiveTypes.Uint32},
	PredKFirst:       {Name: NameKFirst, Type: arrow.PrimitiveTypes.Int64},
	PredKLast:        {Name: NameKLast, Type: arrow.PrimitiveTypes.Int64},
	PredBackfill:     {Name: "backfill", Type: arrow.FixedWidthTypes.Boolean},
}, &arrow.Metadata{})

// Predictions is the schema predictions.v1, the rows that detect gives: one per window, scored or not.
func Predictions() *arrow.Schema { return predictions }
