package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"path/filepath"
	"strconv"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/tailrace/tailrace/connectors/kafka"
	"github.com/tailrace/tailrace/pipeline/spec"
	"github.com/tailrace/tailrace/schemas"
)

func (e *env) dlqCommand() *cobra.Command {
	c := &cobra.Command{Use: "dlq", Short: "List the dead letters of a pipeline, or send their messages back"}
	var listed, replayed letterFlags
	list := &cobra.Command{
		Use:   "list FILE",
		Short: "List dead letters, the oldest first: what was refused, where it came from and why",
		Args:  usageArgs(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			return e.withLetters(cmd.Context(), args[0], &listed, e.listLetters)
		},
	}
	listed.define(list)
	replay := &cobra.Command{
		Use:   "replay FILE",
		Short: "Send the messages of dead letters back to where they came from",
		Long: "Send the messages of dead letters back to the partitions they came from, byte for byte, with the header\n" +
			"replayed-from. The letters stay where they are: whoever replays one twice sends it twice. A letter that does not\n" +
			"hold its whole message is named and not sent, and the exit code is then 1.",
		Args: usageArgs(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			return e.withLetters(cmd.Context(), args[0], &replayed, e.replayLetters)
		},
	}
	replayed.define(replay)
	replay.Flags().BoolVar(&replayed.dryRun, "dry-run", false, "say what would be sent, and send nothing")
	c.AddCommand(list, replay)
	return c
}

// letterFlags pick dead letters.
type letterFlags struct {
	code, stage  string
	partition    string
	since, until string
	limit        int
	dryRun       bool
}

func (l *letterFlags) define(c *cobra.Command) {
	c.Flags().StringVar(&l.code, "code", "", "only those refused for this reason, such as invalid_json")
	c.Flags().StringVar(&l.stage, "stage", "", "only those refused at this stage: decode or sink")
	c.Flags().StringVar(&l.partition, "partition", "", "only those whose message came from this partition")
	c.Flags().StringVar(&l.since, "since", "", "only those refused at or after this time, or so long ago: 2026-01-05T00:00:00Z, 24h")
	c.Flags().StringVar(&l.until, "until", "", "only those refused before this time, or so long ago")
	c.Flags().IntVar(&l.limit, "limit", 0, "at most so many; 0 for all")
}

func (l *letterFlags) filter(now time.Time) (kafka.LetterFilter, error) {
	f := kafka.LetterFilter{Code: l.code, Stage: l.stage, Limit: l.limit}
	if l.limit < 0 {
		return f, usage(fmt.Errorf("--limit: want 0 or more, got %d", l.limit))
	}
	if l.partition != "" {
		n, err := strconv.ParseInt(l.partition, 10, 32)
		if err != nil || n < 0 {
			return f, usage(fmt.Errorf("--partition: want a number from 0 on, got %q", l.partition))
		}
		id := int32(n)
		f.Partition = &id
	}
	var err error
	if f.From, err = moment("--since", l.since, now); err != nil {
		return f, err
	}
	f.To, err = moment("--until", l.until, now)
	return f, err
}

// moment reads a time of a flag: RFC 3339, or a duration before now. Nothing gives the zero time.
func moment(flag, text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if t, err := time.Parse(time.RFC3339Nano, text); err == nil {
		return t, nil
	}
	ago, err := time.ParseDuration(text)
	if err != nil || ago < 0 {
		return time.Time{}, usage(fmt.Errorf("%s: want a time such as 2026-01-05T00:00:00Z, or how long ago such as 24h, got %q", flag, text))
	}
	return now.Add(-ago), nil
}

// letterBox is the dead letters of one pipeline.
type letterBox struct {
	*kafka.DeadLetters
	topic  string // where the pipeline's messages come from
	filter kafka.LetterFilter
	dryRun bool
}

// withLetters opens the dead letters of a pipeline file for do.
func (e *env) withLetters(ctx context.Context, path string, flags *letterFlags, do func(context.Context, *letterBox) error) error {
	f, err := e.load(path)
	if err != nil {
		return err
	}
	filter, err := flags.filter(time.Now())
	if err != nil {
		return err
	}
	source, err := kafkaSource(f, path)
	if err != nil {
		return err
	}
	publisher, ok := f.Publisher.Config.(*kafka.PublisherConfig)
	if !ok {
		return fmt.Errorf("%w: %s: want sinks.kafka, got %s", errStart, path, f.Publisher.Kind)
	}
	access := publisher.Access(filepath.Dir(path))
	// The reader waits for brokers that are away, as a pipeline does; whoever stands before a terminal is told.
	if _, _, err := access.Offsets(ctx, publisher.Prefix+schemas.TopicDeadLetters); err != nil {
		return fmt.Errorf("%w: %w", errStart, err)
	}
	letters, err := kafka.OpenDeadLetters(ctx, access, publisher.Prefix)
	if err != nil {
		return err
	}
	// Pipelines may share the topic, and one may have had another source.
	filter.Pipeline, filter.Topic = f.ID, source.Topic
	return errors.Join(do(ctx, &letterBox{letters, source.Topic, filter, flags.dryRun}), letters.Close())
}

// kafkaSource is the source of a pipeline file, which must be Kafka.
func kafkaSource(f *spec.File, path string) (*kafka.SourceConfig, error) {
	c, ok := f.Source.Config.(*kafka.SourceConfig)
	if !ok {
		return nil, fmt.Errorf("%w: %s: want a source kafka, got %s", errStart, path, f.Source.Kind)
	}
	return c, nil
}

// letterJSON is a dead letter of dlq list.
type letterJSON struct {
	Partition    int32     `json:"partition"` // of the letter
	Offset       int64     `json:"offset"`
	Time         time.Time `json:"time"`
	Code         string    `json:"code"`
	Reason       string    `json:"reason"`
	Stage        string    `json:"stage"`
	SrcTopic     string    `json:"src_topic"`
	SrcPartition int32     `json:"src_partition"`
	SrcOffset    int64     `json:"src_offset"`
	SrcTime      time.Time `json:"src_time"`
	Key          string    `json:"key"`
	Value        string    `json:"value"`
	ValueBytes   []byte    `json:"value_base64,omitempty"` // instead of value, if it is no UTF-8
	Truncated    bool      `json:"truncated,omitempty"`
	Length       int64     `json:"src_length,omitempty"`
	SHA256       string    `json:"src_sha256,omitempty"`
}

func letterAsJSON(l *kafka.Letter) letterJSON {
	j := letterJSON{
		Partition: l.Partition, Offset: l.Offset, Time: l.Time, Code: l.Code, Reason: l.Reason, Stage: l.Stage,
		SrcTopic: l.SrcTopic, SrcPartition: l.SrcPartition, SrcOffset: l.SrcOffset, SrcTime: l.SrcTime.UTC(),
		Key: string(l.Key), Truncated: l.Truncated, Length: l.SrcLength, SHA256: l.SrcSHA256,
	}
	if utf8.Valid(l.Value) {
		j.Value = string(l.Value)
	} else {
		j.ValueBytes = l.Value
	}
	return j
}

func (e *env) listLetters(ctx context.Context, box *letterBox) error {
	letters := box.List(ctx, box.filter)
	if e.json {
		return e.streamLetters(letters)
	}
	table := tabwriter.NewWriter(e.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "REFUSED\tLETTER\tFROM\tSTAGE\tCODE\tKEY\tREASON\tVALUE")
	n := 0
	for l, err := range letters {
		if err != nil {
			return errors.Join(err, table.Flush())
		}
		fmt.Fprintf(table, "%s\t%d/%d\t%d/%d\t%s\t%q\t%s\t%s\t%s\n", at(l.Time), l.Partition, l.Offset, l.SrcPartition, l.SrcOffset,
			l.Stage, l.Code, shown(string(l.Key)), shown(l.Reason), shown(string(l.Value)))
		if n++; n%tableRows == 0 {
			if err := table.Flush(); err != nil {
				return err
			}
		}
	}
	fmt.Fprintf(table, "%d letters\n", n)
	return table.Flush()
}

// tableRows is how many rows of a long table are aligned with each other, and held until they are.
const tableRows = 500

// shownText is how much of a text a table shows.
const shownText = 48

// shown is a text for a table: quoted, since it comes from outside, and cut.
func shown(text string) string {
	if len(text) <= shownText {
		return strconv.Quote(text)
	}
	cut := text[:shownText]
	for len(cut) > 0 && !utf8.ValidString(cut) && utf8.ValidString(text) {
		cut = cut[:len(cut)-1]
	}
	return strconv.Quote(cut) + "..."
}

// streamLetters prints the one object of dlq list as the letters come: each may have a megabyte.
func (e *env) streamLetters(letters iter.Seq2[*kafka.Letter, error]) error {
	fmt.Fprint(e.Out, `{"letters": [`)
	n, failed := 0, error(nil)
	for l, err := range letters {
		if err != nil {
			failed = err
			break
		}
		text, err := json.Marshal(letterAsJSON(l))
		if err != nil {
			return err
		}
		separator := ",\n"
		if n == 0 {
			separator = "\n"
		}
		if _, err := fmt.Fprintf(e.Out, "%s%s", separator, text); err != nil {
			return err
		}
		n++
	}
	_, err := fmt.Fprintf(e.Out, "\n], \"count\": %d}\n", n)
	return errors.Join(failed, err)
}

// replayedJSON is the JSON of dlq replay.
type replayedJSON struct {
	DryRun  bool         `json:"dry_run"`
	Letters int          `json:"letters"` // that the filters picked
	Sent    int          `json:"sent"`    // with dry_run: that would be
	Kept    []keptLetter `json:"kept"`    // that can't be sent
}

type keptLetter struct {
	Partition int32  `json:"partition"`
	Offset    int64  `json:"offset"`
	Reason    string `json:"reason"`
}

func (e *env) replayLetters(ctx context.Context, box *letterBox) error {
	done := replayedJSON{DryRun: box.dryRun, Kept: []keptLetter{}}
	failed := box.replay(ctx, &done, e.progress)
	if e.json {
		failed = errors.Join(failed, e.print(done))
	} else if box.dryRun {
		fmt.Fprintf(e.Out, "%d letters; %d would be sent to topic %q, %d can't be\n", done.Letters, done.Sent, box.topic, len(done.Kept))
	} else {
		fmt.Fprintf(e.Out, "%d letters; %d sent to topic %q, %d can't be\n", done.Letters, done.Sent, box.topic, len(done.Kept))
	}
	if failed == nil && len(done.Kept) > 0 {
		return errFound
	}
	return failed
}

// replay sends the letters that the filters pick.
func (b *letterBox) replay(ctx context.Context, done *replayedJSON, progress func(string, ...any)) error {
	for l, err := range b.List(ctx, b.filter) {
		if err != nil {
			return err
		}
		done.Letters++
		if b.dryRun {
			err = l.Replayable()
		} else {
			_, err = b.Replay(ctx, l)
		}
		if errors.Is(err, kafka.ErrNotReplayable) {
			progress("not sent: %v", err)
			done.Kept = append(done.Kept, keptLetter{l.Partition, l.Offset, err.Error()})
			continue
		}
		if err != nil {
			return err
		}
		done.Sent++
	}
	return nil
}
