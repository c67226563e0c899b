package pipeline

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/tailrace/tailrace/pipeline/state"
)

// Step is one operator of a plan.
type Step struct {
	Name string
	New  NewOperator
	// Fingerprint changes when what the step's state means changes: with its kind and config, and those of the steps before.
	Fingerprint string
}

// StepError is an error that one step of the chain gave.
type StepError struct {
	Index int // position in the plan's steps
	Name  string
	Err   error
}

func (e *StepError) Error() string { return fmt.Sprintf("step %q: %v", e.Name, e.Err) }
func (e *StepError) Unwrap() error { return e.Err }

// chain is the operators of one task, each calling the next in the same goroutine.
type chain struct {
	steps    []Step
	ops      []Operator
	emitters []stepEmitter
	schemas  []*arrow.Schema // what each step gives

	spent  []stepTime    // since the last takeSpent
	nested time.Duration // of the calls that the running call has made to later steps
}

// stepTime is what one step has used: its own time, without that of the steps it emitted to, and the rows it was given.
type stepTime struct {
	step string
	took time.Duration
	rows int64
}

// chainOutput takes what leaves the chain. It owns the batches it is given.
type chainOutput interface {
	rows(ctx context.Context, batch arrow.Record) error
	events(ctx context.Context, batch arrow.Record) error
	late(ctx context.Context, batch arrow.Record) error
	rekeyed(ctx context.Context, batch arrow.Record) error
}

// newChain makes and binds the operators for the rows of in. It reports every step that can't be made, then the first
// that can't be bound, since what follows it has no input to bind to.
func newChain(steps []Step, settings Settings, in *arrow.Schema, out chainOutput) (*chain, error) {
	c := &chain{steps: steps}
	var faults []error
	for i, s := range steps {
		settings.Step = s.Name
		op, err := s.New(settings)
		if err != nil {
			faults = append(faults, &StepError{Index: i, Name: s.Name, Err: err})
			continue
		}
		c.ops = append(c.ops, op)
		c.spent = append(c.spent, stepTime{step: s.Name})
	}
	if len(faults) == 0 && len(steps) > 1 {
		for i, op := range c.ops {
			if _, ok := op.(Rekeyer); ok {
				faults = append(faults, &StepError{Index: i, Name: steps[i].Name, Err: fmt.Errorf("want it to be the pipeline's only "+
					"step, got %d steps: the steps that score belong to a second pipeline, which reads the topic that this one writes", len(steps))})
			}
		}
	}
	if len(faults) > 0 {
		return nil, errors.Join(append(faults, c.close())...)
	}
	for i, op := range c.ops {
		next, err := op.Bind(in)
		if err != nil {
			return nil, errors.Join(&StepError{Index: i, Name: steps[i].Name, Err: err}, c.close())
		}
		c.schemas = append(c.schemas, next)
		c.emitters = append(c.emitters, stepEmitter{chain: c, next: i + 1, out: out})
		in = next
	}
	return c, nil
}

// stepEmitter passes a step's rows to the step after it, or out of the chain.
type stepEmitter struct {
	chain *chain
	next  int
	out   chainOutput
}

func (e stepEmitter) Emit(ctx context.Context, output Output, batch arrow.Record) error {
	switch output {
	case Events:
		return e.out.events(ctx, batch)
	case Late:
		return e.out.late(ctx, batch)
	case Rekeyed:
		return e.out.rekeyed(ctx, batch)
	}
	if e.next == len(e.chain.ops) {
		return e.out.rows(ctx, batch)
	}
	defer batch.Release()
	return e.chain.give(ctx, e.next, batch)
}

// rekeys tells whether rows leave the chain for the topic keyed by asset.
func (c *chain) rekeys() bool {
	_, ok := c.ops[0].(Rekeyer)
	return ok
}

// give has one step process a batch.
func (c *chain) give(ctx context.Context, i int, batch arrow.Record) error {
	c.spent[i].rows += batch.NumRows()
	return c.call(i, func(op Operator, out Emitter) error { return op.Process(ctx, batch, out) })
}

// call calls one step, times it, and says whose error it was. An error that passed through a later step names that step
// already.
func (c *chain) call(i int, f func(Operator, Emitter) error) error {
	outer := c.nested
	c.nested = 0
	started := time.Now()
	err := f(c.ops[i], c.emitters[i])
	took := time.Since(started)
	c.spent[i].took += took - c.nested
	c.nested = outer + took
	var named *StepError
	if err == nil || errors.As(err, &named) {
		return err
	}
	return &StepError{Index: i, Name: c.steps[i].Name, Err: err}
}

func (c *chain) process(ctx context.Context, batch arrow.Record) error { return c.give(ctx, 0, batch) }

// takeSpent returns what each step has used since the last time.
func (c *chain) takeSpent() []stepTime {
	spent := slices.Clone(c.spent)
	for i := range c.spent {
		c.spent[i].took, c.spent[i].rows = 0, 0
	}
	return spent
}

// advance tells the steps in order, so that what an earlier one emits is in the later one before its own turn.
func (c *chain) advance(ctx context.Context, watermark int64) error {
	for i := range c.ops {
		if err := c.call(i, func(op Operator, out Emitter) error { return op.Advance(ctx, watermark, out) }); err != nil {
			return err
		}
	}
	return nil
}

func (c *chain) finish(ctx context.Context) error {
	for i := range c.ops {
		if err := c.call(i, func(op Operator, out Emitter) error { return op.Finish(ctx, out) }); err != nil {
			return err
		}
	}
	return nil
}

// snapshot appends the state of each step, under its name with prefix before it.
func (c *chain) snapshot(to []state.Step, prefix string, full bool) ([]state.Step, error) {
	for i, op := range c.ops {
		w := state.NewWriter()
		if err := op.Snapshot(w, full); err != nil {
			return nil, &StepError{Index: i, Name: c.steps[i].Name, Err: fmt.Errorf("snapshot: %w", err)}
		}
		to = append(to, state.Step{Name: prefix + c.steps[i].Name, Fingerprint: c.steps[i].Fingerprint, State: w})
	}
	return to, nil
}

// restore gives each step its state from the step of its name, and returns the names of those whose state is of another
// step: their config, or that of a step before, has changed.
func (c *chain) restore(from map[string]state.RestoredStep, prefix string) (lost []string, err error) {
	for i, op := range c.ops {
		name := prefix + c.steps[i].Name
		s, ok := from[name]
		switch {
		case !ok || s.State.Version() == 0: // a step that is new, or keeps no state
			continue
		case s.Fingerprint != c.steps[i].Fingerprint:
			lost = append(lost, name)
			continue
		}
		if err := op.Restore(s.State); err != nil {
			return nil, &StepError{Index: i, Name: c.steps[i].Name, Err: fmt.Errorf("restore: %w", err)}
		}
	}
	return lost, nil
}

func (c *chain) close() error {
	var faults []error
	for i, op := range c.ops {
		if err := op.Close(); err != nil {
			faults = append(faults, &StepError{Index: i, Name: c.steps[i].Name, Err: err})
		}
	}
	return errors.Join(faults...)
}
