package schemas

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/apache/arrow/go/v15/arrow"
)

// Channel is one input of a model: a tag and the unit its values are in.
type Channel struct {
	Tag  string `json:"tag" yaml:"tag"`
	Unit string `json:"unit,omitempty" yaml:"unit,omitempty"` // UNECE Recommendation 20 code or plain text; "" if unknown
}

// Layout says how the rows between align and score are laid out. It travels in the schema's metadata.
type Layout struct {
	Channels []Channel     `json:"channels"`
	Grid     time.Duration `json:"grid_ns"`             // spacing of the grid
	Size     int           `json:"size_rows,omitempty"` // rows of a window, T
	Hop      int           `json:"hop_rows,omitempty"`  // rows between the starts of windows
	Model    *ModelInfo    `json:"model,omitempty"`     // set by normalize or score, whichever comes first
}

// ModelInfo is what the steps after score need of the model's bundle.
type ModelInfo struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	SHA256  string `json:"sha256"` // of model.onnx, lowercase hex
	// Mean and Std are the statistics per channel, in the channel's unit, that turn a normalized value back.
	Mean []float64 `json:"mean"`
	Std  []float64 `json:"std"`
	// Thresholds gives, for a quantile written as in the manifest ("0.99"), the score that this share of normal windows
	// stays under.
	Thresholds map[string]float64 `json:"thresholds"`
	// MinCoverage is the least coverage of a window that is scored, 0 to 1.
	MinCoverage float64 `json:"min_coverage"`
}

const layoutKey = "tailrace.layout"

// With returns fields as a schema that carries l.
func (l Layout) With(fields []arrow.Field) (*arrow.Schema, error) {
	text, err := json.Marshal(l)
	if err != nil {
		return nil, fmt.Errorf("layout: %w", err)
	}
	meta := arrow.NewMetadata([]string{layoutKey}, []string{string(text)})
	return arrow.NewSchema(fields, &meta), nil
}

// LayoutOf reads the layout that a schema carries.
func LayoutOf(s *arrow.Schema) (Layout, error) {
	var l Layout
	meta := s.Metadata()
	i := meta.FindKey(layoutKey)
	if i < 0 {
		return l, fmt.Errorf("schema has no %s: want the rows of align, window, normalize or score", layoutKey)
	}
	if err := json.Unmarshal([]byte(meta.Values()[i]), &l); err != nil {
		return l, fmt.Errorf("%s: %w", layoutKey, err)
	}
	return l, nil
}

// Names of columns between align and the sinks. Each stage adds its own and passes the others on.
const (
	NameTS          = "ts"           // align: grid time; window and later: time of the window's last grid row
	NameTSIngest    = "ts_ingest"    // newest arrival among the samples that count in the row
	NameAsset       = "asset"        //
	NameCoverage    = "coverage"     // share of cells that hold a value, 0 to 1
	NameKFirst      = "k_first"      // lowest offset among the samples that count in the row; -1 if none
	NameKLast       = "k_last"       // highest offset among them; -1 if none
	NameRevision    = "revision"     // 0 for the first result of its key, one more for each correction
	NameWindowStart = "window_start" // inclusive
	NameWindowEnd   = "window_end"   // exclusive: start + size * grid
	NameN           = "n"            // grid rows present in the window
	NameCut         = "cut"          // why the window is not whole, "" if it is; see Reason
	NameSamples     = "samples"      // FixedSizeList<float64>[T*C], row-major T x C, in the channels' units; a missing cell is null
	NameInput       = "x"            // FixedSizeList<float32>[T*C], row-major T x C, normalized; no nulls: a missing cell is 0, the mean
	NameScore       = "score"        // the model's score; null with a reason
	NameReason      = "reason"       // why the score is null, "" if it is not; see Reason
	NameContrib     = "contrib"      // FixedSizeList<float32>[C]: share of each channel in the score; null where the score is
	NameExpected    = "expected"     // FixedSizeList<float32>[C]: what the model expected of the window's last row, normalized
	NameOutputs     = "outputs"      // Map<utf8, float32>: the model's other scalar outputs by name
)

// Reasons for a null score or a window that is not whole.
const (
	ReasonCutStart         = "cut_start"         // the window begins before the asset's first row
	ReasonCutEnd           = "cut_end"           // the input ended before the window did
	ReasonMaxDuration      = "max_duration"      // the window was closed by force: neither its stop nor its gap came in time
	ReasonWithdrawn        = "withdrawn"         // late rows gave windows with other bounds instead; this one has no rows
	ReasonInsufficientData = "insufficient_data" // coverage is under the bundle's min_coverage
	ReasonModelFault       = "model_fault"       // the model gave NaN or an infinite score
)

// WideFields are the leading columns of align's rows; one nullable float64 column per channel follows, named by its tag.
func WideFields() []arrow.Field {
	return []arrow.Field{
		{Name: NameAsset, Type: Dict},
		{Name: NameTS, Type: NanosUTC},
		{Name: NameTSIngest, Type: NanosUTC},
		{Name: NameCoverage, Type: arrow.PrimitiveTypes.Float32},
		{Name: NameKFirst, Type: arrow.PrimitiveTypes.Int64},
		{Name: NameKLast, Type: arrow.PrimitiveTypes.Int64},
		{Name: NameRevision, Type: arrow.PrimitiveTypes.Uint32},
	}
}

// WindowFields are window's columns. The samples stay float64 in the channels' units: float32 loses a deviation of
// 0.02 degC on 120 degC, which is the fault that matters. Normalizing makes them float32.
func WindowFields(t, c int) []arrow.Field {
	return []arrow.Field{
		{Name: NameAsset, Type: Dict},
		{Name: NameWindowStart, Type: NanosUTC},
		{Name: NameWindowEnd, Type: NanosUTC},
		{Name: NameTS, Type: NanosUTC},
		{Name: NameTSIngest, Type: NanosUTC},
		{Name: NameN, Type: arrow.PrimitiveTypes.Int32},
		{Name: NameCoverage, Type: arrow.PrimitiveTypes.Float32},
		{Name: NameCut, Type: Dict},
		{Name: NameKFirst, Type: arrow.PrimitiveTypes.Int64},
		{Name: NameKLast, Type: arrow.PrimitiveTypes.Int64},
		{Name: NameRevision, Type: arrow.PrimitiveTypes.Uint32},
		{Name: NameSamples, Type: arrow.FixedSizeListOfField(int32(t*c), arrow.Field{Name: "item", Type: arrow.PrimitiveTypes.Float64, Nullable: true})},
	}
}

// InputField is the column that normalize adds.
func InputField(t, c int) arrow.Field {
	return arrow.Field{Name: NameInput, Type: arrow.FixedSizeListOfField(int32(t*c), arrow.Field{Name: "item", Type: arrow.PrimitiveTypes.Float32})}
}

// ScoreFields are the columns that score adds.
func ScoreFields(c int) []arrow.Field {
	list := arrow.FixedSizeListOfField(int32(c), arrow.Field{Name: "item", Type: arrow.PrimitiveTypes.Float32})
	return []arrow.Field{
		{Name: NameScore, Type: arrow.PrimitiveTypes.Float32, Nullable: true},
		{Name: NameReason, Type: Dict},
		{Name: NameContrib, Type: list, Nullable: true},
		{Name: NameExpected, Type: list, Nullable: true},
		{Name: NameOutputs, Type: arrow.MapOf(arrow.BinaryTypes.String, arrow.PrimitiveTypes.Float32)},
	}
}
