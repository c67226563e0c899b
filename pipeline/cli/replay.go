package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"github.com/tailrace/tailrace/connectors/file"
	"github.com/tailrace/tailrace/connectors/kafka"
	"github.com/tailrace/tailrace/pipeline/cli/replay"
)

// replayTarget is where a replay goes, and how fast.
type replayTarget struct {
	access  kafka.Access
	options replay.Options
}

// send replays recorded data to a topic.
func (e *env) send(ctx context.Context, root fs.FS, c file.Config, t replayTarget) (result replay.Result, err error) {
	reader, err := file.Open(root, c, e.Alloc)
	if err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, reader.Close()) }()
	pc := kafka.DefaultProducerConfig()
	pc.Brokers, pc.TLS, pc.SASL = t.access.Brokers, t.access.TLS, t.access.SASL
	pc.Topics, pc.LZ4, pc.Log = []string{t.options.Topic}, true, e.log
	producer := kafka.NewProducer(pc)
	defer func() { err = errors.Join(err, producer.Close()) }()
	if err := producer.Open(ctx); err != nil {
		return result, err
	}
	return replay.Run(ctx, reader, producer, t.options)
}

// replayOptions are the flags of replay.
type replayOptions struct {
	file       file.Config
	target     replayTarget
	pipeline   string // file
	partitions int
	start, end string
}

func (e *env) replayCommand() *cobra.Command {
	o := replayOptions{file: file.DefaultConfig()}
	c := &cobra.Command{
		Use:   "replay FILE...",
		Short: "Send recorded data to a Kafka topic as JSON telemetry",
		Long: "Send recorded data to a Kafka topic, one JSON message a value, key = asset, merged in the order of time. With\n" +
			"neither --rate nor --factor it goes at full speed; --factor 1 is real time.",
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.file.Files = args
			return e.replay(cmd.Context(), o)
		},
	}
	f := c.Flags()
	f.StringSliceVar(&o.target.access.Brokers, "brokers", []string{"127.0.0.1:9092"}, "brokers to start from")
	f.StringVar(&o.pipeline, "pipeline", "", "pipeline file whose source says which brokers, with its tls and sasl")
	f.StringVar(&o.target.options.Topic, "topic", "plant.telemetry", "topic; made if there is none")
	f.IntVar(&o.partitions, "partitions", 4, "partitions of a topic that is made")
	f.Float64Var(&o.target.options.Rate, "rate", 0, "messages per second")
	f.Float64Var(&o.target.options.Factor, "factor", 0, "speed as a factor of real time")
	f.StringVar(&o.file.Format, "format", file.FormatCSV, "csv (a column per tag), long (ts, asset, tag, value, q) or tep")
	f.StringVar(&o.file.Asset, "asset", o.file.Asset, "asset of csv and tep; {file} is the file's name without extensions")
	f.StringVar(&o.file.TimeColumn, "time-column", o.file.TimeColumn, "time column of csv")
	f.StringVar(&o.file.Time, "time", o.file.Time, "how times are written: ns, us, ms, s, rfc3339 or a layout of 2006-01-02 15:04:05")
	f.StringVar(&o.file.Separator, "separator", o.file.Separator, "column separator of csv and long")
	f.StringSliceVar(&o.file.Ignore, "ignore", nil, "columns of csv that are no tags")
	f.DurationVar(&o.file.Period, "period", o.file.Period, "time between rows of tep")
	f.StringVar(&o.start, "start", "", "time of the first value: now or RFC 3339; default as recorded")
	f.StringVar(&o.end, "end", "", "time of the last value: now or RFC 3339; default as recorded")
	c.MarkFlagsMutuallyExclusive("rate", "factor")
	c.MarkFlagsMutuallyExclusive("start", "end")
	c.MarkFlagsMutuallyExclusive("brokers", "pipeline")
	return c
}

// replayed is the JSON of replay.
type replayed struct {
	Topic     string    `json:"topic"`
	Sent      int64     `json:"sent"`
	First     time.Time `json:"first"`
	Last      time.Time `json:"last"`
	Seconds   float64   `json:"seconds"`
	PerSecond float64   `json:"per_second"`
}

func (e *env) replay(ctx context.Context, o replayOptions) error {
	for _, f := range o.file.Validate() {
		return usage(fmt.Errorf("replay: %w", f))
	}
	if o.pipeline != "" {
		var err error
		if o.target.access, err = e.accessOf(o.pipeline); err != nil {
			return err
		}
	}
	root := userFiles(".")
	if err := e.shift(ctx, root, &o); err != nil {
		return err
	}
	if err := o.target.access.CreateTopic(ctx, o.target.options.Topic, o.partitions, nil); err != nil {
		return stopped(ctx, fmt.Errorf("%w: %w", errStart, err))
	}
	o.target.options.Progress = func(p replay.Progress) {
		e.progress("%d of %d sent, %.0f/s", p.Sent, p.Total, p.PerSecond)
	}
	r, err := e.send(ctx, root, o.file, o.target)
	perSecond := float64(r.Sent) / max(r.Took.Seconds(), 1e-9)
	e.progress("sent %d values from %s to %s in %.1f s (%.0f/s)", r.Sent, at(r.First), at(r.Last), r.Took.Seconds(), perSecond)
	if e.json {
		err = errors.Join(err, e.print(replayed{o.target.options.Topic, r.Sent, r.First, r.Last, round(r.Took.Seconds(), 3), round(perSecond, 0)}))
	}
	return stopped(ctx, err)
}

// accessOf reads how a pipeline's source reaches its brokers.
func (e *env) accessOf(path string) (kafka.Access, error) {
	f, err := e.load(path)
	if err != nil {
		return kafka.Access{}, err
	}
	c, ok := f.Source.Config.(*kafka.SourceConfig)
	if !ok {
		return kafka.Access{}, fmt.Errorf("%w: %s: want a source of kind kafka, got %s", errStart, path, f.Source.Kind)
	}
	return c.Access(filepath.Dir(path)), nil
}

// shift reads the data once to know how many values there are and by how much their times are to be moved.
func (e *env) shift(ctx context.Context, root fs.FS, o *replayOptions) (err error) {
	reader, err := file.Open(root, o.file, e.Alloc)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, reader.Close()) }()
	span, err := replay.Measure(ctx, reader)
	if err != nil {
		return err
	}
	o.target.options.Total = span.Values
	if o.start == "" && o.end == "" {
		return nil
	}
	to := time.Now().UTC()
	if moment := o.start + o.end; moment != "now" {
		if to, err = time.Parse(time.RFC3339, moment); err != nil {
			return usage(fmt.Errorf("replay: want now or a time such as 2026-01-31T06:00:00Z, got %q", moment))
		}
	}
	if o.start != "" {
		o.target.options.Shift = span.StartAt(to)
	} else {
		o.target.options.Shift = span.EndAt(to)
	}
	return nil
}
