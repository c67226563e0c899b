package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/tailrace/tailrace/pipeline"
	"github.com/tailrace/tailrace/pipeline/eventtime"
)

// statusTimeout bounds the question to a running pipeline, which answers from memory.
const statusTimeout = 5 * time.Second

// statusMax bounds the answer: some 100,000 assets.
const statusMax = 32 << 20

func (e *env) statusCommand() *cobra.Command {
	var address string
	c := &cobra.Command{
		Use:   "status",
		Short: "Ask a running pipeline how far each asset has come, and why one is not scored",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return e.status(cmd.Context(), address) },
	}
	c.Flags().StringVar(&address, "address", pipeline.DefaultHTTP().Address, "http.address of the running pipeline")
	return c
}

func (e *env) status(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/status", nil)
	if err != nil {
		return usage(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return fmt.Errorf("%w: no pipeline answers at %s: %w", errStart, address, err)
	}
	defer response.Body.Close()
	var s pipeline.Status
	if err := json.NewDecoder(io.LimitReader(response.Body, statusMax)).Decode(&s); err != nil {
		return fmt.Errorf("%s: not the status of a pipeline: %w", address, err)
	}
	if e.json {
		return e.print(s)
	}
	fmt.Fprintf(e.Out, "pipeline %s: %s\n", s.Pipeline, s.Stage)
	if !s.Ready {
		fmt.Fprintf(e.Out, "not ready: %s\n", s.Reason)
	}
	table := tabwriter.NewWriter(e.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "ASSET\tPARTITION\tROWS\tLAST READ\tLAST WINDOW\tLAST STORED\tSCORE\tWHY NOT")
	for _, a := range s.Assets {
		score := "none"
		if a.LastScore != nil {
			score = fmt.Sprintf("%.3f", *a.LastScore)
		}
		fmt.Fprintf(table, "%q\t%d\t%d\t%s\t%s\t%s\t%s\t%q\n", a.Asset, a.Partition, a.Rows, at(a.LastRead), at(a.LastWindow),
			at(a.LastStored), score, a.Why)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for _, partition := range slices.Sorted(maps.Keys(s.Dead)) {
		fmt.Fprintf(e.Out, "partition %d: %d messages could not be decoded; see the dead-letter topic\n", partition, s.Dead[partition])
	}
	for _, line := range findingLines(s.Findings) {
		fmt.Fprintln(e.Out, "finding:", line)
	}
	if s.Untracked > 0 {
		fmt.Fprintf(e.Out, "%d rows were of assets beyond those that the status keeps\n", s.Untracked)
	}
	return nil
}

// shownIdle is how many idle devices are named: of a plant that reports by exception most are.
const shownIdle = 10

// findingLines are findings in sentences. Idle devices share one.
func findingLines(list []pipeline.Finding) []string {
	var lines, idle []string
	silent := 0
	for i := range list {
		f := &list[i]
		if f.Kind != eventtime.Idle {
			lines = append(lines, findingText(f))
			continue
		}
		if silent++; silent <= shownIdle {
			idle = append(idle, fmt.Sprintf("%q since %s", f.Device, at(f.Since)))
		}
	}
	if silent == 0 {
		return lines
	}
	text := fmt.Sprintf("%d devices are silent, and the others do not wait for them: %s", silent, strings.Join(idle, ", "))
	if more := silent - len(idle); more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return append(lines, text)
}

// findingText is a finding in a sentence.
func findingText(f *pipeline.Finding) string {
	off := time.Duration(f.Seconds * float64(time.Second)).Round(time.Millisecond)
	switch f.Kind {
	case eventtime.ClockAhead:
		return fmt.Sprintf("device %q on partition %d: its clock is %v ahead; %d rows since %s are used by no result", f.Device,
			f.Partitions[0], off, f.Rows, at(f.Since))
	case eventtime.ClockBack:
		return fmt.Sprintf("device %q on partition %d: its clock has gone back by %v; %d rows since %s", f.Device, f.Partitions[0], off,
			f.Rows, at(f.Since))
	case eventtime.BeforeMinTime:
		return fmt.Sprintf("device %q on partition %d: its clock is not set: %d rows since %s have times before watermark.min_time", f.Device,
			f.Partitions[0], f.Rows, at(f.Since))
	case "asset_on_partitions":
		return fmt.Sprintf("asset %q comes on partitions %v: its windows can't be put together; its messages need one key, or a pipeline "+
			"with the step rekey before this one", f.Device, f.Partitions)
	}
	return fmt.Sprintf("%s: %q on partitions %v, %d rows since %s", f.Kind, f.Device, f.Partitions, f.Rows, at(f.Since))
}

func at(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Format(time.RFC3339)
}
