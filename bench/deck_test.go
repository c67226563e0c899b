package main

import (
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"
)

// Scenario: decks of any number of kills and any seed.
// Guarantees: there are as many kills as asked, each kind of process has one; a full deck hits every step, and a
// recovery's step comes right after one that leaves a plan open.
func TestDeck(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		kills := rapid.IntRange(4, 200).Draw(t, "kills")
		deck := newDeck(kills, rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1)))
		n, processes, steps := 0, map[string]int{}, map[string]int{}
		for _, a := range deck {
			n += a.kills()
			processes[a.process]++
			if a.step != "" {
				steps[a.step]++
				if a.times < 1 {
					t.Fatalf("%+v: want a time from 1", a)
				}
			}
			if a.then != "" {
				steps[a.then]++
				switch a.step {
				case "block", "table", "sent", "flushed", "ledger":
				default:
					t.Fatalf("%+v: no plan is open after %s", a, a.step)
				}
			}
		}
		if n != kills {
			t.Fatalf("want %d kills, got %d", kills, n)
		}
		for _, process := range []string{"run", "broker", "clickhouse"} {
			if processes[process] == 0 {
				t.Fatalf("want a kill of %s, got %v", process, processes)
			}
		}
		if kills < 20 {
			return
		}
		for _, step := range []string{
			"barrier", "blob", "plan", "block", "table", "sent", "flushed", "ledger", "commit",
			"recover-plan", "recover-sent", "recover-flushed", "recover-ledger", "recover-commit",
		} {
			if steps[step] == 0 {
				t.Fatalf("want a kill at %s, got %v", step, steps)
			}
		}
	})
}
