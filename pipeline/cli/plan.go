package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/tailrace/tailrace/connectors/kafka"
	"github.com/tailrace/tailrace/pipeline"
	"github.com/tailrace/tailrace/pipeline/spec"
	"github.com/tailrace/tailrace/pipeline/state"
)

func (e *env) planCommand() *cobra.Command {
	var diff bool
	c := &cobra.Command{
		Use:   "plan FILE",
		Short: "Show what a pipeline file would run, and what an edit does to the state that is stored",
		Long: "Print the steps with their fingerprints and where state is kept. With --diff, read the newest state of each\n" +
			"partition and say of every step whether a start from this file keeps its state or loses it.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return e.showPlan(cmd.Context(), args[0], diff) },
	}
	c.Flags().BoolVar(&diff, "diff", false, "compare with the state that is stored")
	return c
}

// planned is the JSON of plan.
type planned struct {
	Pipeline string     `json:"pipeline"`
	Topic    string     `json:"topic"`
	Group    string     `json:"group"`
	Delivery string     `json:"delivery"`
	Store    string     `json:"state_store"`
	Steps    []stepJSON `json:"steps"`
	Stored   []placedAt `json:"stored,omitempty"` // by partition; only with --diff
}

type stepJSON struct {
	Name        string `json:"name"`
	Kind        string `json:"kind"`
	Fingerprint string `json:"fingerprint"` // of its kind and config and of all steps before it
}

// placedAt is where a partition stands, and what becomes of its state.
type placedAt struct {
	Partition int32      `json:"partition"`
	Offset    int64      `json:"offset"`          // where a start would go on
	Blob      string     `json:"blob,omitempty"`  // with the state there; none: every step starts empty
	Open      bool       `json:"open,omitempty"`  // the checkpoint of the blob is still to be settled, which comes first
	Ended     bool       `json:"ended,omitempty"` // the input ended there: no state outlives that
	Source    string     `json:"source"`          // group: the group's commit names the blob; store: it is the newest one there
	Stored    time.Time  `json:"stored,omitzero"`
	Steps     []stepFate `json:"steps"`
	Fault     string     `json:"fault,omitempty"` // why the state can't be used
}

// stepFate is what becomes of the state of one step.
type stepFate struct {
	Name  string `json:"name"` // with history/ in front in the lane of historical rows
	State string `json:"state"`
	Was   string `json:"was,omitempty"` // fingerprint in the blob, where it is another
	Keys  int    `json:"keys"`          // assets, mostly
	Bytes int    `json:"bytes"`
	// Version is the format of the values, which the operator numbers.
	Version uint32 `json:"version"`
}

// What becomes of the state of a step.
const (
	stateKept  = "kept"  // same step, same config, same steps before it
	stateLost  = "lost"  // its config, or that of a step before it, has changed: it starts empty
	stateNew   = "new"   // it is not in the stored state: it starts empty
	stateGone  = "gone"  // it is not in the file any more
	stateEmpty = "empty" // it keeps nothing
)

func (e *env) showPlan(ctx context.Context, path string, diff bool) error {
	f, err := e.load(path)
	if err != nil {
		return err
	}
	plan, err := e.plan(f, path)
	if err != nil {
		return err
	}
	source, err := kafkaSource(f, path)
	if err != nil {
		return err
	}
	url, err := storeURL(f.State)
	if err != nil {
		return err
	}
	p := planned{
		Pipeline: f.ID, Topic: source.Topic, Group: groupOf(source, f.ID), Delivery: f.Checkpoint.Delivery, Store: url,
	}
	for i, s := range plan.Steps {
		p.Steps = append(p.Steps, stepJSON{s.Name, f.Steps[i].Kind, s.Fingerprint})
	}
	if diff {
		if p.Stored, err = storedState(ctx, f, plan, source.Access(filepath.Dir(path)), p.Topic, p.Group); err != nil {
			return err
		}
	}
	if e.json {
		return e.print(p)
	}
	return e.printPlan(&p, diff)
}

// groupOf is the consumer group of a source.
func groupOf(c *kafka.SourceConfig, id string) string { return cmp.Or(c.Group, "tailrace."+id) }

// storedState reads where each partition stands, and compares.
func storedState(ctx context.Context, f *spec.File, plan pipeline.Plan, a kafka.Access, topic, group string) (all []placedAt, err error) {
	commits, err := a.Committed(ctx, group, topic)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errStart, err)
	}
	if err := plan.Store.Open(ctx); err != nil {
		return nil, fmt.Errorf("%w: state.store: %w", errStart, err)
	}
	defer func() { err = errors.Join(err, plan.Store.Close()) }()
	blobs := map[string]*state.Blob{}
	for _, id := range slices.Sorted(maps.Keys(commits)) {
		at := placedAt{Partition: id, Offset: commits[id].Offset, Source: "group", Steps: []stepFate{}}
		meta, err := state.ParseMeta(commits[id].Metadata)
		if err != nil {
			at.Fault = err.Error()
		} else {
			at.Blob, at.Open = meta.Blob, meta.Open
			at.compare(ctx, plan, topic, blobs)
		}
		all = append(all, at)
	}
	if len(all) > 0 {
		return all, nil
	}
	return newestStates(ctx, f.ID, plan, topic, blobs)
}

// newestStates finds the newest state of each partition in the store, for a group that has committed nothing.
func newestStates(ctx context.Context, id string, plan pipeline.Plan, topic string, blobs map[string]*state.Blob) ([]placedAt, error) {
	list, err := plan.Store.List(ctx, id+"/")
	if err != nil {
		return nil, fmt.Errorf("state.store: %w", err)
	}
	newest := map[int32]*placedAt{}
	for _, info := range list {
		b, err := state.Load(ctx, plan.Store, info.Name)
		if err != nil {
			continue // another blob may do, and a start would say so
		}
		for i := range b.Parts {
			p := &b.Parts[i]
			if p.Topic != topic {
				continue
			}
			stored := time.Unix(0, b.Time).UTC()
			if known := newest[p.Partition]; known == nil || stored.After(known.Stored) {
				newest[p.Partition] = &placedAt{
					Partition: p.Partition, Offset: p.To, Blob: info.Name, Source: "store", Stored: stored, Steps: []stepFate{},
				}
			}
		}
	}
	var all []placedAt
	for _, partition := range slices.Sorted(maps.Keys(newest)) {
		newest[partition].compare(ctx, plan, topic, blobs)
		all = append(all, *newest[partition])
	}
	return all, nil
}

// compare fills in what becomes of the state of each step.
func (at *placedAt) compare(ctx context.Context, plan pipeline.Plan, topic string, blobs map[string]*state.Blob) {
	if at.Blob == "" {
		for _, s := range plan.Steps {
			at.Steps = append(at.Steps, stepFate{Name: s.Name, State: stateNew})
		}
		return
	}
	restored, err := state.Restore(ctx, plan.Store, at.Blob, topic, at.Partition, blobs)
	if err != nil {
		at.Fault = err.Error()
		return
	}
	at.Stored, at.Ended = time.Unix(0, blobs[at.Blob].Time).UTC(), len(restored.Steps) == 0
	if at.Open {
		at.Offset = blobs[at.Blob].Part(topic, at.Partition).To
	}
	at.Steps = fates(plan.Steps, restored.Steps)
}

// fates compares the steps of a file with those of a blob.
func fates(steps []pipeline.Step, stored []state.RestoredStep) []stepFate {
	var list []stepFate
	known := map[string]string{} // fingerprint by name
	for _, s := range steps {
		known[s.Name] = s.Fingerprint
	}
	seen := map[string]bool{}
	for _, s := range stored {
		fate := stepFate{Name: s.Name, State: stateKept, Keys: s.State.Len(), Bytes: len(s.State.Common()), Version: s.State.Version()}
		for key, value := range s.State.All() {
			fate.Bytes += len(key) + len(value)
		}
		name := strings.TrimPrefix(s.Name, state.HistoryPrefix)
		fingerprint, ok := known[name]
		seen[s.Name] = true
		switch {
		case s.Name == state.ClockStep: // the engine's own
		case !ok:
			fate.State = stateGone
		case s.State.Version() == 0:
			fate.State = stateEmpty
		case fingerprint != s.Fingerprint:
			fate.State, fate.Was = stateLost, s.Fingerprint
		}
		list = append(list, fate)
	}
	for _, s := range steps {
		if !seen[s.Name] {
			list = append(list, stepFate{Name: s.Name, State: stateNew})
		}
	}
	return list
}

func (e *env) printPlan(p *planned, diff bool) error {
	fmt.Fprintf(e.Out, "pipeline %s: topic %q, group %q, %s\nstate in %s\n\n", p.Pipeline, p.Topic, p.Group, p.Delivery, p.Store)
	table := tabwriter.NewWriter(e.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "STEP\tKIND\tFINGERPRINT")
	for _, s := range p.Steps {
		fmt.Fprintf(table, "%s\t%s\t%s\n", s.Name, s.Kind, s.Fingerprint)
	}
	if err := table.Flush(); err != nil || !diff {
		return err
	}
	if len(p.Stored) == 0 {
		fmt.Fprintln(e.Out, "\nno state is stored: every step starts empty")
		return nil
	}
	for _, at := range p.Stored {
		fmt.Fprintf(e.Out, "\npartition %d, offset %d", at.Partition, at.Offset)
		switch {
		case at.Blob == "":
			fmt.Fprintln(e.Out, ": nothing is stored yet")
		case at.Open:
			fmt.Fprintf(e.Out, ": once checkpoint %s is settled, which comes first\n", at.Blob)
		case at.Ended:
			fmt.Fprintln(e.Out, ": the input had ended there")
		default:
			fmt.Fprintf(e.Out, ": %s\n", at.Blob)
		}
		if at.Fault != "" {
			fmt.Fprintf(e.Out, "  %s\n", at.Fault)
			continue
		}
		table := tabwriter.NewWriter(e.Out, 2, 0, 2, ' ', 0)
		for _, s := range at.Steps {
			fmt.Fprintf(table, "  %s\t%s\t%d keys\t%d bytes", s.Name, s.State, s.Keys, s.Bytes)
			if s.Was != "" {
				fmt.Fprintf(table, "\twas %s", s.Was)
			}
			fmt.Fprintln(table)
		}
		if err := table.Flush(); err != nil {
			return err
		}
	}
	return nil
}
