package cli

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/tailrace/tailrace/connectors/clickhouse"
	"github.com/tailrace/tailrace/connectors/kafka"
	"github.com/tailrace/tailrace/pipeline"
	"github.com/tailrace/tailrace/pipeline/state"
)

func (e *env) reconcileCommand() *cobra.Command {
	var o reconcileOptions
	c := &cobra.Command{
		Use:   "reconcile FILE",
		Short: "Prove from Kafka, the ledger and ClickHouse that every message is somewhere, once",
		Long: "Compare what Kafka has given with what ClickHouse has, by partition and hour of the ledger:\n\n" +
			"  messages = stored + dead letters + dropped + expired\n\n" +
			"where dropped are those of which no row is stored, for a reason that the ledger counts. Doubled rows, and offsets that\n" +
			"no line of the ledger has or that two have, are faults. It only reads, and needs no more than SELECT; the exit code is 1\n" +
			"if something does not add up.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return e.reconcile(cmd.Context(), args[0], o) },
	}
	c.Flags().StringVar(&o.since, "since", "", "only checkpoints settled at or after this time, or so long ago: 2026-01-05T00:00:00Z, 24h")
	c.Flags().StringVar(&o.user, "user", "", "ClickHouse user, instead of the file's: one that may only read will do")
	c.Flags().StringVar(&o.passwordFile, "password-file", "", "file with that user's password; without it there is none")
	return c
}

type reconcileOptions struct{ since, user, passwordFile string }

// reconciled is the JSON of reconcile.
type reconciled struct {
	Pipeline   string      `json:"pipeline"`
	Topic      string      `json:"topic"`
	Database   string      `json:"database"`
	OK         bool        `json:"ok"`
	Faults     []string    `json:"faults"` // what does not add up
	Notes      []string    `json:"notes"`  // what explains a difference
	Total      sums        `json:"total"`
	Hours      []hourJSON  `json:"hours"`
	Partitions []endOfPart `json:"partitions"`
	books      *books
	access     kafka.Access
	newest     string // topic id of the ledger's newest line
}

// sums are counts of messages, but for those named rows.
type sums struct {
	Messages    int64            `json:"messages"`
	Stored      int64            `json:"stored"`       // distinct offsets in the table telemetry
	DeadLetters int64            `json:"dead_letters"` // refused by the decoder
	Dropped     int64            `json:"dropped"`      // no row stored: duplicates, rows that the store refuses
	Expired     int64            `json:"expired"`      // older than the TTL of the table
	Unaccounted int64            `json:"unaccounted"`  // more than 0: lost; less: more is stored than was read
	Holes       int64            `json:"holes"`        // offsets without a message: control records, aborted transactions, compaction
	Late        int64            `json:"late_rows"`    // inside stored
	Rows        int64            `json:"rows"`         // of telemetry
	Doubled     int64            `json:"doubled_rows"`
	Missing     int64            `json:"missing_rows"` // that the ledger says are stored
	Reasons     map[string]int64 `json:"reasons"`      // the ledger's counters
}

func (s *sums) add(o *sums) {
	s.Messages += o.Messages
	s.Stored += o.Stored
	s.DeadLetters += o.DeadLetters
	s.Dropped += o.Dropped
	s.Expired += o.Expired
	s.Unaccounted += o.Unaccounted
	s.Holes += o.Holes
	s.Late += o.Late
	s.Rows += o.Rows
	s.Doubled += o.Doubled
	s.Missing += o.Missing
	for reason, n := range o.Reasons {
		s.Reasons[reason] += n
	}
}

type hourJSON struct {
	Hour      time.Time `json:"hour"`
	Partition int32     `json:"partition"`
	TopicID   string    `json:"topic_id"`
	From      int64     `json:"from"`
	To        int64     `json:"to"`
	sums
}

// endOfPart is where a partition stands.
type endOfPart struct {
	Partition   int32  `json:"partition"`
	First       int64  `json:"first"`       // that Kafka still has
	End         int64  `json:"end"`         // of the partition
	Settled     int64  `json:"settled"`     // the ledger's end; -1 for none
	Committed   int64  `json:"committed"`   // of the group; -1 for none
	Open        bool   `json:"open"`        // a checkpoint is on its way: its rows may be stored though it is not settled
	ToRead      int64  `json:"to_read"`     // offsets
	InFlight    int64  `json:"in_flight"`   // rows stored behind the ledger's end
	Predictions int64  `json:"predictions"` // of settled checkpoints
	Events      int64  `json:"events"`      // rows of settled checkpoints
	topicID     string // of the ledger's newest line
}

func (e *env) reconcile(ctx context.Context, path string, o reconcileOptions) error {
	f, err := e.load(path)
	if err != nil {
		return err
	}
	since, err := moment("--since", o.since, time.Now())
	if err != nil {
		return err
	}
	source, err := kafkaSource(f, path)
	if err != nil {
		return err
	}
	sink, ok := f.Sink.Config.(*clickhouse.Config)
	if !ok {
		return fmt.Errorf("%w: %s: want sinks.clickhouse, got %s", errStart, path, f.Sink.Kind)
	}
	config := sink.In(filepath.Dir(path))
	if o.user != "" {
		config.User, config.Password, config.PasswordEnv, config.PasswordFile = o.user, "", "", o.passwordFile
	}
	db, err := clickhouse.Connect(ctx, config)
	if err != nil {
		return fmt.Errorf("%w: %w", errStart, err)
	}
	r := reconciled{
		Pipeline: f.ID, Topic: source.Topic, Database: config.Database, Faults: []string{}, Notes: []string{},
		Total: sums{Reasons: map[string]int64{}}, Hours: []hourJSON{}, Partitions: []endOfPart{},
		books:  &books{db: db, pipeline: f.ID, topic: source.Topic, since: since},
		access: source.Access(filepath.Dir(path)),
	}
	err = r.read(ctx, groupOf(source, f.ID))
	if err := errors.Join(err, db.Close()); err != nil {
		return err
	}
	r.OK = len(r.Faults) == 0
	if e.json {
		err = e.print(r)
	} else {
		err = e.printReconciled(&r)
	}
	if err == nil && !r.OK {
		return errFound
	}
	return err
}

// read asks in an order in which a pipeline that goes on meanwhile looks right: the group's offsets never pass the ledger's
// end, nor that the partition's.
func (r *reconciled) read(ctx context.Context, group string) error {
	commits, err := r.access.Committed(ctx, group, r.Topic)
	if err != nil {
		return fmt.Errorf("%w: %w", errStart, err)
	}
	hours, err := r.books.hours(ctx)
	if err != nil {
		return err
	}
	first, end, err := r.access.Offsets(ctx, r.Topic)
	if err != nil {
		return err
	}
	r.ends(hours, commits, first, end)
	if err := r.count(ctx, hours); err != nil {
		return err
	}
	return r.derived(ctx, hours)
}

// ends fills in where each partition stands.
func (r *reconciled) ends(hours []hour, commits map[int32]pipeline.Commit, first, end map[int32]int64) {
	newest := map[int32]*hour{}
	for i := range hours {
		h := &hours[i]
		if n := newest[h.Partition]; n == nil || h.Settled.After(n.Settled) || h.Settled.Equal(n.Settled) && h.To > n.To {
			newest[h.Partition] = h
		}
	}
	var last time.Time
	for _, h := range newest {
		if !h.Settled.Before(last) {
			last, r.newest = h.Settled, h.TopicID
		}
	}
	for _, id := range slices.Sorted(maps.Keys(end)) {
		p := endOfPart{Partition: id, First: first[id], End: end[id], Settled: -1, Committed: -1, ToRead: end[id] - first[id]}
		commit, committed := commits[id]
		meta, foreign := state.ParseMeta(commit.Metadata)
		if committed {
			p.Committed, p.Open = commit.Offset, foreign == nil && meta.Open
			p.ToRead = end[id] - commit.Offset
		}
		if n := newest[id]; n != nil {
			p.topicID = n.TopicID
			for i := range hours {
				if hours[i].Partition == id && hours[i].TopicID == n.TopicID {
					p.Settled = max(p.Settled, hours[i].To)
				}
			}
			p.ToRead = end[id] - p.Settled
			switch {
			case p.Settled > end[id]:
				r.fault("partition %d: the ledger ends at offset %d and the topic at %d: it was made anew", id, p.Settled, end[id])
				p.ToRead = end[id] - first[id]
			case p.Settled < first[id]:
				r.fault("partition %d: offsets %d to %d are gone: retention deleted them before they were read", id, p.Settled, first[id]-1)
			case !committed:
				r.note("partition %d: the group has committed nothing, though the ledger ends at offset %d", id, p.Settled)
			case foreign != nil:
				r.note("partition %d: the group's offset %d has %v", id, p.Committed, foreign)
			case p.Committed > p.Settled && meta.TopicID == n.TopicID && !meta.Open:
				r.fault("partition %d: the group's offset is %d, and the ledger ends at %d: what is between is in no checkpoint",
					id, p.Committed, p.Settled)
			}
		}
		r.Partitions = append(r.Partitions, p)
	}
	for _, id := range slices.Sorted(maps.Keys(newest)) {
		if _, ok := end[id]; !ok {
			r.fault("partition %d: the ledger has it, and the topic does not", id)
		}
	}
}

func (r *reconciled) fault(format string, args ...any) {
	r.Faults = append(r.Faults, fmt.Sprintf(format, args...))
}
func (r *reconciled) note(format string, args ...any) {
	r.Notes = append(r.Notes, fmt.Sprintf(format, args...))
}

// shownFaults is how many faults are printed for people.
const shownFaults = 50

func (e *env) printReconciled(r *reconciled) error {
	table := tabwriter.NewWriter(e.Out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "HOUR\tPARTITION\tFROM\tTO\tMESSAGES\tSTORED\tDEAD\tDROPPED\tEXPIRED\tHOLES\tLATE\tDOUBLED\tUNACCOUNTED\t")
	line := func(s *sums) {
		fmt.Fprintf(table, "%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t\n", s.Messages, s.Stored, s.DeadLetters, s.Dropped, s.Expired, s.Holes,
			s.Late, s.Doubled, s.Unaccounted)
	}
	for i := range r.Hours {
		h := &r.Hours[i]
		fmt.Fprintf(table, "%s\t%d\t%d\t%d\t", h.Hour.Format("2006-01-02T15Z"), h.Partition, h.From, h.To)
		line(&h.sums)
	}
	fmt.Fprint(table, "total\t\t\t\t")
	line(&r.Total)
	fmt.Fprintln(table, "\nPARTITION\tFIRST\tEND\tSETTLED\tCOMMITTED\tTO READ\tIN FLIGHT\tPREDICTIONS\tEVENT ROWS\t")
	for _, p := range r.Partitions {
		fmt.Fprintf(table, "%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t\n", p.Partition, p.First, p.End, p.Settled, p.Committed, p.ToRead, p.InFlight,
			p.Predictions, p.Events)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(e.Out)
	for _, reason := range slices.Sorted(maps.Keys(r.Total.Reasons)) {
		fmt.Fprintf(e.Out, "%s: %d\n", reason, r.Total.Reasons[reason])
	}
	for _, note := range r.Notes {
		fmt.Fprintln(e.Out, "note:", note)
	}
	for i, fault := range r.Faults {
		if i == shownFaults {
			fmt.Fprintf(e.Out, "and %d more\n", len(r.Faults)-i)
			break
		}
		fmt.Fprintln(e.Out, "fault:", fault)
	}
	if r.OK {
		fmt.Fprintln(e.Out, "everything adds up")
	}
	return nil
}
