package main

import (
	"fmt"
	"math/rand/v2"
)

// steps of the checkpoint protocol at which a process kills itself, in their order.
func checkpointSteps() []string {
	return []string{"barrier", "blob", "plan", "block", "table", "sent", "flushed", "ledger", "commit"}
}

// recoverySteps are reached by whoever finds an open plan.
func recoverySteps() []string {
	return []string{"recover-plan", "recover-sent", "recover-flushed", "recover-ledger", "recover-commit"}
}

// openers leave a plan open.
func openers() []string { return []string{"block", "table", "sent", "flushed", "ledger"} }

// action is one or two kills.
type action struct {
	process string // ofRun, ofBroker or ofClickHouse
	step    string // at which a run process ends itself; "" for a random moment
	times   int    // at the so manyeth time that the step is reached
	then    string // a step of the recovery that follows, at which it ends itself again; "" for none
}

func (a action) kills() int {
	if a.then != "" {
		return 2
	}
	return 1
}

// failpoint is the value of the environment variable.
func (a action) failpoint() string { return fmt.Sprintf("%s:%d", a.step, a.times) }

// fullDeck is the least number of kills that hit every step and every kind of process.
const fullDeck = 20

// newDeck makes kills kills in a random order. From fullDeck on each step is hit and each kind of process several
// times; a smaller deck has one of each kind of action and as many steps as fit.
func newDeck(kills int, random *rand.Rand) []action {
	steps, recover, open := checkpointSteps(), recoverySteps(), openers()
	random.Shuffle(len(steps), func(i, j int) { steps[i], steps[j] = steps[j], steps[i] })
	random.Shuffle(len(recover), func(i, j int) { recover[i], recover[j] = recover[j], recover[i] })
	random.Shuffle(len(open), func(i, j int) { open[i], open[j] = open[j], open[i] })
	times := func() int { return 2 + random.IntN(3) }

	servers, pairs := max(1, kills/10), len(recover)
	if kills < fullDeck {
		pairs = 1
	}
	var deck []action
	left := kills
	add := func(a action) {
		if left >= a.kills() {
			deck = append(deck, a)
			left -= a.kills()
		}
	}
	for range servers {
		add(action{process: ofClickHouse})
		add(action{process: ofBroker})
	}
	used := map[string]bool{}
	for i := range pairs {
		add(action{process: ofRun, step: open[i], times: times(), then: recover[i]})
		used[open[i]] = true
	}
	for _, step := range steps {
		if !used[step] && (kills >= fullDeck || left > 2) { // a small deck keeps two for random moments
			add(action{process: ofRun, step: step, times: times()})
		}
	}
	for left > 0 {
		add(action{process: ofRun})
	}
	random.Shuffle(len(deck), func(i, j int) { deck[i], deck[j] = deck[j], deck[i] })
	return deck
}
