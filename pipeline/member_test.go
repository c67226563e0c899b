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

// silent is a source whose group does not say what it has stored in its first generation.
type silent struct {
	Source
	asked *int
}

func (s silent) Next(ctx context.Context) (Generation, error) {
	g, err := s.Source.Next(ctx)
	return silentGeneration{g, s.asked}, err
}

type silentGeneration struct {
	Generation
	asked *int
}

func (g silentGeneration) Committed(ctx context.Context) (map[int32]Commit, error) {
	if *g.asked++; *g.asked == 1 {
		return nil, errors.New("connection reset by peer")
	}
	return g.Generation.Committed(ctx)
}

// Scenario: the brokers go away as a generation begins, so that the group does not say what it has stored.
// Guarantees: the process asks again in its next generation, and goes on as if nothing had been.
func TestGroupSilentAsGenerationBegins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		want, _ := undisturbed(t)
		w := newWorld(t)
		plantOf(w)
		asked := 0
		w.live(t, func(p *Plan) {
			summingPlan(p)
			source := p.Source
			p.Source = func(s Settings, d NewDecoder) (Source, error) {
				made, err := source(s, d)
				return silent{made, &asked}, err
			}
		})
		if got := w.outcome(); got != want {
			t.Errorf("want\n%v\ngot\n%v", want, got)
		}
		if w.generations != 2 {
			t.Errorf("want a second generation, got %d", w.generations)
		}
	})
}
