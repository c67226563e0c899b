package pipeline

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/tailrace/tailrace/pipeline/eventtime"
	"github.com/tailrace/tailrace/schemas"
)

// stage is how far the engine has come.
type stage string

const (
	stageStarting  stage = "starting"
	stageSink      stage = "connecting to the sink"
	stageStore     stage = "opening the state store"
	stagePublisher stage = "connecting to the topics"
	stageJoining   stage = "joining the consumer group"
	stageRunning   stage = "running"
	stageStopping  stage = "stopping"
)

// stuckAfter is how long a checkpoint may take to store before the engine calls itself not ready: well over a slow
// insert, well under a pager's patience.
const stuckAfter = 30 * time.Second

// Status is what `tailrace status` shows.
type Status struct {
	Pipeline string        `json:"pipeline"`
	Stage    string        `json:"stage"`
	Ready    bool          `json:"ready"`
	Reason   string        `json:"reason,omitempty"` // why it is not ready
	Assets   []AssetStatus `json:"assets"`
	// Dead are the messages of each partition that could not be decoded. Nobody knows what asset they were of.
	Dead map[int32]int64 `json:"dead_letters,omitempty"`
	// Findings name the devices that a person should look at, and assets whose rows come on more than one partition, which
	// windows can't be put together from.
	Findings []Finding `json:"findings,omitempty"`
	// Untracked is how many rows were of assets beyond those that the status keeps.
	Untracked int64 `json:"untracked_rows,omitempty"`
}

// Finding is something about the plant's data that a person should mend.
type Finding struct {
	Kind       string    `json:"kind"`   // clock_ahead, clock_back, before_min_time or asset_on_partitions
	Device     string    `json:"device"` // device or asset
	Partitions []int32   `json:"partitions"`
	Since      time.Time `json:"since,omitzero"`
	Seconds    float64   `json:"seconds,omitempty"` // how far the clock is off
	Rows       int64     `json:"rows,omitempty"`
}

// allFindings puts the findings of the partitions together.
func (b *statusBoard) allFindings() []Finding {
	var list []Finding
	for partition, found := range b.findings {
		for _, f := range found {
			list = append(list, Finding{
				Kind: f.Kind, Device: f.Device, Partitions: []int32{partition}, Since: time.Unix(0, f.Since).UTC(),
				Seconds: f.By.Seconds(), Rows: f.Rows,
			})
		}
	}
	for asset, on := range b.partitions {
		if len(on) > 1 && !b.rekeys {
			list = append(list, Finding{Kind: "asset_on_partitions", Device: asset, Partitions: slices.Sorted(maps.Keys(on))})
		}
	}
	slices.SortFunc(list, func(x, y Finding) int {
		return cmp.Or(cmp.Compare(x.Kind, y.Kind), cmp.Compare(x.Device, y.Device), slices.Compare(x.Partitions, y.Partitions))
	})
	return list
}

// maxStatusAssets is how many assets the status keeps: some 30 MB, and more than anybody reads.
const maxStatusAssets = 100_000

// silentAfter is how long an asset may send nothing before the status calls it silent.
const silentAfter = time.Minute

// AssetStatus says how far one asset's data has come.
type AssetStatus struct {
	Asset      string    `json:"asset"`
	Partition  int32     `json:"partition"`
	Rows       int64     `json:"rows"`                 // values read
	LastRead   time.Time `json:"last_read"`            // newest event time read
	LastWindow time.Time `json:"last_window,omitzero"` // end of the newest window judged
	LastScore  *float32  `json:"last_score"`           // of that window; null with a reason
	Reason     string    `json:"reason,omitempty"`     // why that window has no score
	Why        string    `json:"why,omitempty"`        // why the asset is not scored, in a sentence; "" if it is
	LastSeen   time.Time `json:"last_seen"`            // by the program's clock, when rows were read last

	// Dropped are values that no window holds, by reason.
	Dropped    map[string]int64 `json:"dropped,omitempty"`
	LastStored time.Time        `json:"last_stored,omitzero"` // newest event time stored
}

type assetKey struct {
	partition int32
	asset     string
}

// statusBoard collects what the tasks see, a few updates a batch.
type statusBoard struct {
	mu           sync.Mutex
	at           stage
	source       Troubled // nil: it does not say
	storingSince time.Time
	storingStep  string // of the protocol
	findings     map[int32][]eventtime.Finding
	partitions   map[string]map[int32]struct{} // by asset
	assets       map[assetKey]*AssetStatus
	deadLetters  map[int32]int64
	untracked    int64
	rekeys       bool // rows go to the topic keyed by asset, and no further
}

func newStatusBoard() *statusBoard {
	return &statusBoard{at: stageStarting, assets: map[assetKey]*AssetStatus{}, deadLetters: map[int32]int64{},
		findings: map[int32][]eventtime.Finding{}, partitions: map[string]map[int32]struct{}{}}
}

func (b *statusBoard) stage(s stage) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.at = s
}

// watch has the source asked for its trouble.
func (b *statusBoard) watch(source Troubled) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.source = source
}

// storing notes since when a checkpoint is being stored, and at which step it is; without a step none is, and without a time it
// is still the same one.
func (b *statusBoard) storing(step string, since time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.storingStep = step
	if step == "" || !since.IsZero() {
		b.storingSince = since
	}
}

// found notes what the clock of a partition finds about its devices.
func (b *statusBoard) found(partition int32, list []eventtime.Finding) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(list) == 0 {
		delete(b.findings, partition)
		return
	}
	b.findings[partition] = list
}

// asset returns the status of an asset, or nil if there are too many to keep it.
func (b *statusBoard) asset(partition int32, name string) *AssetStatus {
	key := assetKey{partition, name}
	s := b.assets[key]
	if s == nil && len(b.assets) < maxStatusAssets {
		s = &AssetStatus{Asset: name, Partition: partition}
		b.assets[key] = s
		if b.partitions[name] == nil {
			b.partitions[name] = map[int32]struct{}{}
		}
		b.partitions[name][partition] = struct{}{}
	}
	return s
}

// DropAsset implements AssetDrops.
func (b *statusBoard) DropAsset(partition int32, asset, reason string, rows int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.asset(partition, asset)
	if s == nil {
		return
	}
	if s.Dropped == nil {
		s.Dropped = map[string]int64{}
	}
	s.Dropped[reason] += int64(rows)
}

// dead counts messages of a partition that could not be decoded.
func (b *statusBoard) dead(partition int32, messages int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.deadLetters[partition] += int64(messages)
}

// perAsset calls f once for each asset of a telemetry batch, with its number of rows and newest event time.
func perAsset(batch arrow.Record, f func(asset string, rows int64, newest int64)) {
	column := batch.Column(schemas.ColAsset).(*array.Dictionary)
	names := column.Dictionary().(*array.String)
	index := column.Indices().(*array.Int32).Int32Values()
	ts := batch.Column(schemas.ColTS).(*array.Timestamp).TimestampValues()
	rows := make([]int64, names.Len())
	newest := make([]int64, names.Len())
	for i, a := range index {
		if rows[a] == 0 || int64(ts[i]) > newest[a] {
			newest[a] = int64(ts[i])
		}
		rows[a]++
	}
	for a, n := range rows {
		if n > 0 {
			f(names.Value(a), n, newest[a])
		}
	}
}

func (b *statusBoard) read(partition int32, batch arrow.Record) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now().UTC()
	perAsset(batch, func(asset string, rows, newest int64) {
		s := b.asset(partition, asset)
		if s == nil {
			b.untracked += rows
			return
		}
		s.Rows += rows
		s.LastRead = later(s.LastRead, newest)
		s.LastSeen = now
	})
}

func (b *statusBoard) stored(cp *Checkpoint) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, part := range cp.Parts[Telemetry] {
		for _, batch := range part.Batches {
			perAsset(batch, func(asset string, _, newest int64) {
				if s := b.asset(part.Partition, asset); s != nil {
					s.LastStored = later(s.LastStored, newest)
				}
			})
		}
	}
}

// scored notes the last row of each asset in a batch of predictions.
func (b *statusBoard) scored(partition int32, batch arrow.Record) {
	if !batch.Schema().Equal(schemas.Predictions()) {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	assets := batch.Column(schemas.PredAsset).(*array.Dictionary)
	reasons := batch.Column(schemas.PredReason).(*array.Dictionary)
	ends := batch.Column(schemas.PredWindowEnd).(*array.Timestamp)
	scores := batch.Column(schemas.PredScore).(*array.Float32)
	for i := range int(batch.NumRows()) {
		s := b.asset(partition, assets.Dictionary().(*array.String).Value(assets.GetValueIndex(i)))
		if s == nil {
			continue
		}
		s.LastWindow = later(s.LastWindow, int64(ends.Value(i)))
		s.Reason = reasons.Dictionary().(*array.String).Value(reasons.GetValueIndex(i))
		s.LastScore = nil
		if scores.IsValid(i) {
			v := scores.Value(i)
			s.LastScore = &v
		}
	}
}

func later(t time.Time, ns int64) time.Time {
	if u := time.Unix(0, ns).UTC(); t.IsZero() || u.After(t) {
		return u
	}
	return t
}

// sentences say what the reason of a window without a score means.
var sentences = map[string]string{
	schemas.ReasonInsufficientData: "low coverage: too few channels held a value in the last window",
	schemas.ReasonCutStart:         "its data began inside the last window",
	schemas.ReasonCutEnd:           "its data ended inside the last window",
	schemas.ReasonMaxDuration:      "the last window was closed at its longest duration",
	schemas.ReasonWithdrawn:        "a late row took the last window back",
	schemas.ReasonModelFault:       "the model gave no finite score",
}

// why says why an asset is not scored, or, at now, no longer. It is "" if the newest window has a score.
func why(a *AssetStatus, now time.Time) string {
	var parts []string
	switch {
	case a.LastWindow.IsZero() && a.Rows == dropped(a):
		parts = append(parts, "none of its values can be used")
	case a.LastWindow.IsZero():
		parts = append(parts, "no window has closed yet")
	case a.LastScore == nil:
		text, ok := sentences[a.Reason]
		if !ok {
			text = a.Reason
		}
		parts = append(parts, text)
	}
	if silent := now.Sub(a.LastSeen); !a.LastSeen.IsZero() && silent > silentAfter {
		parts = append(parts, "no data for "+silent.Round(time.Second).String())
	}
	if len(parts) == 0 {
		return ""
	}
	for _, reason := range slices.Sorted(maps.Keys(a.Dropped)) {
		parts = append(parts, fmt.Sprintf("%d values %s", a.Dropped[reason], reason))
	}
	return strings.Join(parts, "; ")
}

func dropped(a *AssetStatus) int64 {
	var n int64
	for _, rows := range a.Dropped {
		n += rows
	}
	return n
}

// rekeyedElsewhere is why no asset of a pipeline with the step rekey is scored.
const rekeyedElsewhere = "its rows go to the topic keyed by asset: the pipeline that reads it scores them"

// setRekeys says whether rows go to the topic keyed by asset.
func (b *statusBoard) setRekeys(rekeys bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.rekeys = rekeys
}

// ready says whether the pipeline works, and if not, why.
func (b *statusBoard) ready() (bool, string) {
	switch {
	case b.at == stageJoining && b.source != nil:
		if trouble := b.source.Trouble(); trouble != "" {
			return false, string(b.at) + ": " + trouble
		}
		return false, string(b.at)
	case b.at != stageRunning:
		return false, string(b.at)
	case !b.storingSince.IsZero() && time.Since(b.storingSince) > stuckAfter:
		return false, fmt.Sprintf("a checkpoint is not stored since %s: it waits at the step %s", b.storingSince.UTC().Format(time.RFC3339), b.storingStep)
	case b.source != nil:
		trouble := b.source.Trouble()
		return trouble == "", trouble
	}
	return true, ""
}

// isReady is 1 while the pipeline works, for metrics.
func (b *statusBoard) isReady() float64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	if ok, _ := b.ready(); ok {
		return 1
	}
	return 0
}

// Status says how far the pipeline and each of its assets have come.
func (e *Engine) Status() Status {
	b := e.status
	b.mu.Lock()
	defer b.mu.Unlock()
	s := Status{Pipeline: e.plan.ID, Stage: string(b.at), Assets: []AssetStatus{}}
	s.Ready, s.Reason = b.ready()
	now := time.Now()
	for _, a := range b.assets {
		shown := *a
		shown.Dropped = maps.Clone(a.Dropped)
		if shown.Why = why(&shown, now); b.rekeys {
			shown.Why = rekeyedElsewhere
		}
		s.Assets = append(s.Assets, shown)
	}
	s.Dead, s.Untracked = maps.Clone(b.deadLetters), b.untracked
	s.Findings = b.allFindings()
	slices.SortFunc(s.Assets, func(x, y AssetStatus) int {
		return cmp.Or(cmp.Compare(x.Asset, y.Asset), cmp.Compare(x.Partition, y.Partition))
	})
	return s
}
