package state

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
)

// Meta is what a commit of offsets carries in its metadata.
type Meta struct {
	Run     [16]byte
	Seq     uint64
	Blob    string // "" before the first checkpoint
	Open    bool   // a plan: the blob's outbox may be sent in part, and the offset is that of the checkpoint before
	TopicID string
	Width   int // partitions of the topic
}

// MaxMeta is how long the text may be, in bytes. A broker takes 4,096 by default.
const MaxMeta = 1 << 10

// ErrForeign says that a commit's metadata was not written by this program.
var ErrForeign = errors.New("metadata of another program")

// metaText is the JSON of Meta.
type metaText struct {
	V     int    `json:"v"`
	Run   string `json:"run"`
	Seq   uint64 `json:"seq"`
	Blob  string `json:"blob,omitempty"`
	State string `json:"state"`
	Topic string `json:"topic,omitempty"`
	Width int    `json:"partitions,omitempty"`
}

const (
	planned = "plan"
	settled = "done"
)

// String is the text of the commit.
func (m Meta) String() string {
	t := metaText{V: Version, Run: hex.EncodeToString(m.Run[:]), Seq: m.Seq, Blob: m.Blob, State: settled, Topic: m.TopicID, Width: m.Width}
	if m.Open {
		t.State = planned
	}
	text, err := json.Marshal(t)
	if err != nil {
		return "" // of texts and numbers, it can't fail
	}
	return string(text)
}

// ParseMeta reads the text of a commit. The error wraps ErrForeign if it is not ours.
func ParseMeta(text string) (Meta, error) {
	var t metaText
	var m Meta
	if len(text) > MaxMeta {
		return m, fmt.Errorf("%w: want at most %d bytes, got %d", ErrForeign, MaxMeta, len(text))
	}
	if err := json.Unmarshal([]byte(text), &t); err != nil {
		return m, fmt.Errorf("%w: want JSON with v, run, seq and state, got %.80q", ErrForeign, text)
	}
	if t.V != Version {
		return m, fmt.Errorf("%w: want version %d, got %d", ErrForeign, Version, t.V)
	}
	run, err := hex.DecodeString(t.Run)
	if err != nil || len(run) != len(m.Run) || t.State != planned && t.State != settled {
		return m, fmt.Errorf("%w: want a run of 32 hex digits and a state plan or done, got run %.40q, state %.40q", ErrForeign, t.Run, t.State)
	}
	copy(m.Run[:], run)
	m.Seq, m.Blob, m.Open, m.TopicID, m.Width = t.Seq, t.Blob, t.State == planned, t.Topic, t.Width
	return m, nil
}
