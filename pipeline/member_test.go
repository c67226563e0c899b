package pipeline

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
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
