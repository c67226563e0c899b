package pipeline

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/tailrace/tailrace/schemas"
)

// stage is how far the engine has come.
type stage string

const (
	stageStarting  stage = "starting"
	stageSink      stage = "connecting to the sink"
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
}

// AssetStatus says how far one asset's data has come.
type AssetStatus struct {
	Asset      string    `json:"asset"`
	Partition  int32     `json:"partition"`
	Rows       int64     `json:"rows"`                 // values read
	LastRead   time.Time `json:"last_read"`            // newest event time read
	LastWindow time.Time `json:"last_window,omitzero"` // end of the newest window judged
	LastScore  *float32  `json:"last_score"`           // of that window; null with a reason
	Reason     string    `json:"reason,omitempty"`     // why it has no score
	LastStored time.Time `json:"last_stored,omitzero"` // newest event time stored
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
	assets       map[assetKey]*AssetStatus
}

func newStatusBoard() *statusBoard {
	return &statusBoard{at: stageStarting, assets: map[assetKey]*AssetStatus{}}
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

// storing notes since when a checkpoint is being stored; the zero time is none.
func (b *statusBoard) storing(since time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.storingSince = since
}

func (b *statusBoard) asset(partition int32, name string) *AssetStatus {
	key := assetKey{partition, name}
	s := b.assets[key]
	if s == nil {
		s = &AssetStatus{Asset: name, Partition: partition}
		b.assets[key] = s
	}
	return s
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
	perAsset(batch, func(asset string, rows, newest int64) {
		s := b.asset(partition, asset)
		s.Rows += rows
		s.LastRead = later(s.LastRead, newest)
	})
}

func (b *statusBoard) stored(cp *Checkpoint) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, part := range cp.Parts[Telemetry] {
		for _, batch := range part.Batches {
			perAsset(batch, func(asset string, _, newest int64) {
				s := b.asset(part.Partition, asset)
				s.LastStored = later(s.LastStored, newest)
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

// Status says how far the pipeline and each of its assets have come.
func (e *Engine) Status() Status {
	b := e.status
	b.mu.Lock()
	defer b.mu.Unlock()
	s := Status{Pipeline: e.plan.ID, Stage: string(b.at), Ready: b.at == stageRunning, Assets: []AssetStatus{}}
	if !s.Ready {
		s.Reason = string(b.at)
	} else if !b.storingSince.IsZero() && time.Since(b.storingSince) > stuckAfter {
		s.Ready, s.Reason = false, "the sink has not taken a checkpoint since "+b.storingSince.UTC().Format(time.RFC3339)
	}
	if s.Ready && b.source != nil {
		s.Reason = b.source.Trouble()
		s.Ready = s.Reason == ""
	}
	for _, a := range b.assets {
		s.Assets = append(s.Assets, *a)
	}
	slices.SortFunc(s.Assets, func(x, y AssetStatus) int {
		return cmp.Or(cmp.Compare(x.Asset, y.Asset), cmp.Compare(x.Partition, y.Partition))
	})
	return s
}
