package state

import (
	"context"
	"fmt"
)

// maxChain bounds how many blobs a snapshot is put together from: well over any full_every.
const maxChain = 1000

// Load reads a blob.
func Load(ctx context.Context, s Store, name string) (*Blob, error) {
	data, err := s.Get(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("blob %s: %w", name, err)
	}
	return Decode(name, data)
}

// Restored is the state of a partition's steps, in the order of the chain.
type Restored struct {
	Steps   []RestoredStep
	Decoder []byte   // of the partition's decoder; empty if it keeps none
	Chain   []string // the blobs that it was put together from, the newest first
}

// RestoredStep is the state of one step.
type RestoredStep struct {
	Name, Fingerprint string
	State             *Reader
}

// Restore puts together the state that a partition had at the barrier of the blob called name. blobs is where blobs that
// were read are kept, so that partitions that share one read it once.
func Restore(ctx context.Context, s Store, name, topic string, partition int32, blobs map[string]*Blob) (*Restored, error) {
	var parts []*Part
	r := &Restored{}
	for at := name; at != ""; {
		if len(parts) == maxChain {
			return nil, fmt.Errorf("blob %s: %w: want a full snapshot within %d blobs", name, ErrCorrupt, maxChain)
		}
		b := blobs[at]
		if b == nil {
			var err error
			if b, err = Load(ctx, s, at); err != nil {
				return nil, err
			}
			blobs[at] = b
		}
		p := b.Part(topic, partition)
		if p == nil {
			return nil, fmt.Errorf("blob %s: %w: it has nothing of topic %q, partition %d", at, ErrCorrupt, topic, partition)
		}
		parts, r.Chain = append(parts, p), append(r.Chain, at)
		at = p.Base
	}
	r.Decoder = parts[0].Decoder
	steps := map[string]*Reader{}
	for i := len(parts) - 1; i >= 0; i-- {
		for _, step := range parts[i].Steps {
			if steps[step.Name] == nil {
				steps[step.Name] = &Reader{}
			}
			steps[step.Name].apply(step.State)
		}
	}
	for _, step := range parts[0].Steps {
		r.Steps = append(r.Steps, RestoredStep{Name: step.Name, Fingerprint: step.Fingerprint, State: steps[step.Name]})
	}
	return r, nil
}
