package pipeline

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tailrace/tailrace/pipeline/state"
)

// Scenario: a group has more members than the topic has partitions, so that one has none; then it is stopped.
// Guarantees: it stays in the group, in its one generation, until then.
func TestMemberWithoutPartitions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		done := make(chan error, 1)
		go func() { done <- w.engine(nil).Run(ctx) }()
		time.Sleep(time.Hour)
		select {
		case err := <-done:
			t.Fatalf("want it to stay, it ended: %v", err)
		default:
		}
		cancel()
		if err := <-done; err != nil || w.generations != 1 {
			t.Errorf("want an end without an error in the first generation, got %v in generation %d", err, w.generations)
		}
	})
}

// Scenario: the state store has a blob of a release to come.
// Guarantees: that is said at once, as a fault of the configuration: no retry mends it.
func TestBlobOfAnotherRelease(t *testing.T) {
	const magic = "tailrace.blob\x00"
	data := state.Encoder{Bytes: []byte(magic)}
	data.Uint(state.Version + 1)
	sum := sha256.Sum256(data.Bytes)
	name := fmt.Sprintf("test/1-%x", sum[:16])
	w := newWorld(t)
	w.blobs[name] = data.Bytes
	_, err := w.engine(nil).load(t.Context(), name, map[string]*state.Blob{})
	if !errors.Is(err, ErrConfig) || !errors.Is(err, state.ErrRelease) {
		t.Errorf("want a fault of the configuration, of another release, got %v", err)
	}
}
