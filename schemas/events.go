package schemas

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/memory"
)

// EventSchema names the version of the event record.
const EventSchema = "anomaly.v1"

// The two messages of an event, and their event_seq.
const (
	StatusFiring   = "firing"   // event_seq 0: the event opened
	StatusResolved = "resolved" // event_seq 1: the event closed
)

// Event is the record of anomaly.events.v1 and of the table anomaly_events: one when an event opens, one when it
// closes, with the same EventID. The fields of an alarm (alarm_id, state, overlay and so on) are null: an event is what
// detect saw; an alarm is what a person must answer.
type Event struct {
	Schema        string         `json:"schema"`
	EventID       string         `json:"event_id"`
	EventSeq      int            `json:"event_seq"`
	AlarmID       *string        `json:"alarm_id"`
	Occurrence    *int64         `json:"occurrence"`
	State         *string        `json:"state"`
	PrevState     *string        `json:"prev_state"`
	Status        string         `json:"status"`
	Pipeline      string         `json:"pipeline"`
	Detector      string         `json:"detector"`
	Asset         string         `json:"asset"`
	Signal        string         `json:"signal"`
	Class         string         `json:"class"`
	OnsetTS       time.Time      `json:"onset_ts"`    // end of the first window of the event
	EventTS       time.Time      `json:"event_ts"`    // end of the window that opened or closed it
	DetectedTS    time.Time      `json:"detected_ts"` // arrival of the newest sample that the decision rests on
	ClearedTS     *time.Time     `json:"cleared_ts"`  // null while the event is open
	PeakTS        time.Time      `json:"peak_ts"`     // end of the window with the highest score so far
	Score         EventScore     `json:"score"`
	Model         EventModel     `json:"model"`
	Contributions []Contribution `json:"contributions"` // of the peak, largest share first
	Window        EventWindow    `json:"window"`        // the window at EventTS
	Backfill      bool           `json:"backfill"`
	Test          bool           `json:"test"`
	Lineage       EventLineage   `json:"lineage"`
}

// EventScore is the score at the peak, in units of the model's score.
type EventScore struct {
	Value     float64 `json:"value"`
	Smoothed  float64 `json:"smoothed"`
	Threshold float64 `json:"threshold"`
	Kind      string  `json:"kind"`
}

// EventModel names the model version that scored.
type EventModel struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	SHA256  string `json:"sha256"`
}

// Contribution is one channel's part in a score: its share of the whole, what was observed and what the model expected,
// in the channel's unit.
type Contribution struct {
	Tag      string  `json:"tag"`
	Share    float64 `json:"share"`
	Observed float64 `json:"observed"`
	Expected float64 `json:"expected"`
	Unit     string  `json:"unit"`
}

// EventWindow is the window that a decision rests on.
type EventWindow struct {
	Start    time.Time `json:"start"`
	End      time.Time `json:"end"`
	N        int       `json:"n"`
	Coverage float64   `json:"coverage"`
}

// EventLineage is the range of offsets that the event's windows rest on.
type EventLineage struct {
	Topic       string `json:"topic"`
	Partition   int32  `json:"partition"`
	OffsetFirst int64  `json:"offset_first"`
	OffsetLast  int64  `json:"offset_last"`
}

// Columns of the record form of events: what is asked for by column, and the whole record as JSON.
const (
	EventAsset = iota
	EventTS
	EventJSON
)

var events = arrow.NewSchema([]arrow.Field{
	EventAsset: {Name: NameAsset, Type: arrow.BinaryTypes.String},
	EventTS:    {Name: "event_ts", Type: NanosUTC},
	EventJSON:  {Name: "event", Type: arrow.BinaryTypes.String},
}, &arrow.Metadata{})

// Events is the schema of detect's output "events". Events are few, so each travels as its JSON.
func Events() *arrow.Schema { return events }

// NewEvents returns list as a record. The caller owns it.
func NewEvents(mem memory.Allocator, list []Event) (arrow.Record, error) {
	b := array.NewRecordBuilder(mem, events)
	defer b.Release()
	for i := range list {
		text, err := json.Marshal(&list[i])
		if err != nil {
			return nil, fmt.Errorf("event %s: %w", list[i].EventID, err)
		}
		b.Field(EventAsset).(*array.StringBuilder).Append(list[i].Asset)
		b.Field(EventTS).(*array.TimestampBuilder).Append(arrow.Timestamp(list[i].EventTS.UnixNano()))
		b.Field(EventJSON).(*array.StringBuilder).Append(string(text))
	}
	return b.NewRecord(), nil
}

// EventsOf reads the events of a record that NewEvents made.
func EventsOf(rec arrow.Record) ([]Event, error) {
	texts, ok := rec.Column(EventJSON).(*array.String)
	if !ok {
		return nil, fmt.Errorf("events: column %d: want utf8, got %s", EventJSON, rec.Column(EventJSON).DataType())
	}
	list := make([]Event, texts.Len())
	for i := range list {
		var err error
		if list[i], err = ParseEvent([]byte(texts.Value(i))); err != nil {
			return nil, fmt.Errorf("events: row %d: %w", i, err)
		}
	}
	return list, nil
}

// ParseEvent reads the JSON of one event, as it stands on the topic.
func ParseEvent(text []byte) (Event, error) {
	var e Event
	if err := json.Unmarshal(text, &e); err != nil {
		return e, fmt.Errorf("event: %w", err)
	}
	if e.Schema != EventSchema {
		return e, fmt.Errorf("event: schema: want %s, got %q", EventSchema, e.Schema)
	}
	return e, nil
}
