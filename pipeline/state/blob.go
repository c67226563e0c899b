package state

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Version is the format of blobs that this package writes. A release reads its own and the one before.
const Version = 1

const magic = "tailrace.blob\x00"

// Blob is a checkpoint as it is stored before any of it is sent: where each partition stands, the operators' state there,
// and the outbox: the rows that were made since the barrier before. Rows of telemetry are not copied; Raw says how
// to read them again.
type Blob struct {
	Pipeline  string
	Run       [16]byte
	Seq       uint64
	Time      int64 // of the barrier, ns UTC
	BlockRows int   // rows of one INSERT, which the cut into blocks depends on
	Parts     []Part
	Outbox    []Rows
}

// Part is one partition of a checkpoint.
type Part struct {
	Topic     string
	TopicID   string
	Partition int32
	From, To  int64 // offsets: everything in [From, To) is in this checkpoint
	Raw       Raw
	Decoder   []byte           // the decoder's state at To; empty if it keeps none
	Counters  map[string]int64 // of the ledger
	Base      string           // the blob that the snapshots build on; "" if they are full
	Steps     []Step
}

// Raw says which rows of telemetry the offsets of a part give.
type Raw struct {
	Messages int64 // data messages
	Rows     int64 // rows stored
	Hash     uint64
	Edits    []Edit // by Row
	Decoder  []byte // the decoder's state at the part's From; empty if it keeps none
	Refused  []Refusal
}

// Refusal is a message that was refused for what its decoder had seen in the messages before, such as too many assets.
type Refusal struct {
	Offset int64
	Reason string
}

// Edit is what the task changed about a decoded row.
type Edit struct {
	Row   int64 // counted over all rows decoded from the part's offsets
	Drop  bool  // it is not stored
	Flags uint32
}

// The names of what a flow keeps beside its steps: its event-time clock, and what stands before the steps of the lane of
// history.
const (
	ClockStep     = "event-time"
	HistoryPrefix = "history/"
)

// Step is the snapshot of one step of the chain.
type Step struct {
	Name        string
	Fingerprint string // of its kind and config and of all that comes before it
	State       *Writer
}

// Rows are the rows of one table that one partition gave, as an Arrow IPC stream.
type Rows struct {
	Table     string
	Topic     string
	Partition int32
	Stream    []byte
}

// Encode returns the blob's bytes and its name, which carries their hash.
func (b *Blob) Encode() (name string, data []byte) {
	var e Encoder
	e.Bytes = append(make([]byte, 0, b.size()), magic...)
	e.Uint(Version)
	e.Text(b.Pipeline)
	e.Bytes = append(e.Bytes, b.Run[:]...)
	e.Uint(b.Seq)
	e.Int(b.Time)
	e.Uint(uint64(b.BlockRows))
	e.Uint(uint64(len(b.Parts)))
	for i := range b.Parts {
		b.Parts[i].encode(&e)
	}
	e.Uint(uint64(len(b.Outbox)))
	for _, r := range b.Outbox {
		e.Text(r.Table)
		e.Text(r.Topic)
		e.Int(int64(r.Partition))
		e.Raw(r.Stream)
	}
	sum := sha256.Sum256(e.Bytes)
	return fmt.Sprintf("%s/%x/%d-%x", b.Pipeline, b.Run, b.Seq, sum[:16]), e.Bytes
}

// size is about how many bytes Encode makes.
func (b *Blob) size() int {
	n := 1 << 10
	for i := range b.Parts {
		n += 1<<10 + 12*len(b.Parts[i].Raw.Edits)
		for _, s := range b.Parts[i].Steps {
			n += s.State.bytes + 6*len(s.State.puts)
		}
	}
	for _, r := range b.Outbox {
		n += len(r.Stream) + 100
	}
	return n
}

func (p *Part) encode(e *Encoder) {
	e.Text(p.Topic)
	e.Text(p.TopicID)
	e.Int(int64(p.Partition))
	e.Int(p.From)
	e.Int(p.To)
	e.Int(p.Raw.Messages)
	e.Int(p.Raw.Rows)
	e.Uint(p.Raw.Hash)
	e.Uint(uint64(len(p.Raw.Edits)))
	last := int64(0)
	for _, edit := range p.Raw.Edits {
		e.Int(edit.Row - last)
		last = edit.Row
		e.Bool(edit.Drop)
		e.Uint(uint64(edit.Flags))
	}
	e.Raw(p.Raw.Decoder)
	e.Uint(uint64(len(p.Raw.Refused)))
	for _, r := range p.Raw.Refused {
		e.Int(r.Offset)
		e.Text(r.Reason)
	}
	e.Raw(p.Decoder)
	e.Uint(uint64(len(p.Counters)))
	for _, key := range slices.Sorted(maps.Keys(p.Counters)) {
		e.Text(key)
		e.Int(p.Counters[key])
	}
	e.Text(p.Base)
	e.Uint(uint64(len(p.Steps)))
	for _, s := range p.Steps {
		e.Text(s.Name)
		e.Text(s.Fingerprint)
		e.Uint(uint64(s.State.version))
		e.Bool(s.State.common != nil)
		e.Raw(s.State.common)
		e.Uint(uint64(len(s.State.deletes)))
		for _, key := range s.State.deletes {
			e.Text(key)
		}
		e.Uint(uint64(len(s.State.puts)))
		for _, key := range slices.Sorted(maps.Keys(s.State.puts)) {
			e.Text(key)
			e.Raw(s.State.puts[key])
		}
	}
}

// ErrRelease marks a blob that another release has written, and that this one can't read.
var ErrRelease = errors.New("of another release")

// Decode reads the blob that was stored under name. Values of its snapshots and its outbox lie in data.
func Decode(name string, data []byte) (*Blob, error) {
	sum := sha256.Sum256(data)
	if want := hex.EncodeToString(sum[:16]); !strings.HasSuffix(name, "-"+want) {
		return nil, fmt.Errorf("blob %s: %w: its bytes have the hash %s", name, ErrCorrupt, want)
	}
	if len(data) < len(magic) || string(data[:len(magic)]) != magic {
		return nil, fmt.Errorf("blob %s: %w: it does not begin as a blob does", name, ErrCorrupt)
	}
	d := NewDecoder(data[len(magic):])
	if v := d.Uint(); v != Version {
		return nil, fmt.Errorf("blob %s: %w: want format version %d, got %d", name, ErrRelease, Version, v)
	}
	b := &Blob{Pipeline: d.Text()}
	copy(b.Run[:], d.fixed(16))
	b.Seq, b.Time, b.BlockRows = d.Uint(), d.Int(), int(d.Uint())
	b.Parts = make([]Part, d.Len(10))
	for i := range b.Parts {
		b.Parts[i].decode(d)
	}
	b.Outbox = make([]Rows, d.Len(4))
	for i := range b.Outbox {
		b.Outbox[i] = Rows{Table: d.Text(), Topic: d.Text(), Partition: int32(d.Int()), Stream: d.Raw()}
	}
	if err := d.Err(); err != nil {
		return nil, fmt.Errorf("blob %s: %w", name, err)
	}
	return b, nil
}

func (d *Decoder) fixed(n int) []byte {
	if len(d.rest) < n {
		d.fail(fmt.Sprintf("%d bytes", n))
		return make([]byte, n)
	}
	v := d.rest[:n]
	d.rest = d.rest[n:]
	return v
}

func (p *Part) decode(d *Decoder) {
	p.Topic, p.TopicID, p.Partition = d.Text(), d.Text(), int32(d.Int())
	p.From, p.To = d.Int(), d.Int()
	p.Raw.Messages, p.Raw.Rows, p.Raw.Hash = d.Int(), d.Int(), d.Uint()
	p.Raw.Edits = make([]Edit, d.Len(3))
	last := int64(0)
	for i := range p.Raw.Edits {
		last += d.Int()
		p.Raw.Edits[i] = Edit{Row: last, Drop: d.Bool(), Flags: uint32(d.Uint())}
	}
	p.Raw.Decoder = d.Raw()
	p.Raw.Refused = make([]Refusal, d.Len(2))
	for i := range p.Raw.Refused {
		p.Raw.Refused[i] = Refusal{Offset: d.Int(), Reason: d.Text()}
	}
	p.Decoder = d.Raw()
	n := d.Len(2)
	p.Counters = make(map[string]int64, n)
	for range n {
		key := d.Text()
		p.Counters[key] = d.Int()
	}
	p.Base = d.Text()
	p.Steps = make([]Step, d.Len(7))
	for i := range p.Steps {
		s := &p.Steps[i]
		s.Name, s.Fingerprint, s.State = d.Text(), d.Text(), NewWriter()
		s.State.version = uint32(d.Uint())
		if changed, common := d.Bool(), d.Raw(); changed {
			s.State.common = common
			s.State.bytes += len(common)
		}
		for range d.Len(1) {
			s.State.deletes = append(s.State.deletes, d.Text())
		}
		for range d.Len(2) {
			key := d.Text()
			value := d.Raw()
			s.State.puts[key] = value
			s.State.bytes += len(key) + len(value)
		}
	}
}

// Part finds a partition's part, nil if the blob has none.
func (b *Blob) Part(topic string, partition int32) *Part {
	for i := range b.Parts {
		if p := &b.Parts[i]; p.Topic == topic && p.Partition == partition {
			return p
		}
	}
	return nil
}
