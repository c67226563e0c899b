package chdb

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// batchRows is how many rows the writer process puts into one insert.
const batchRows = 20_000

// insertForever inserts batches and prints the number of each once it is acknowledged.
func insertForever(dir string) error {
	e, err := open(dir, Options{})
	if err != nil {
		return err
	}
	ctx := context.Background()
	var first uint64
	for _, sql := range []string{"CREATE DATABASE IF NOT EXISTS d",
		"CREATE TABLE IF NOT EXISTS d.t (a UInt64, s String) ENGINE = MergeTree ORDER BY a"} {
		if _, _, err := e.Query(ctx, Request{SQL: sql}); err != nil {
			return err
		}
	}
	b, _, err := e.Query(ctx, Request{SQL: "SELECT if(count() = 0, 0, max(a) + 1) FROM d.t"})
	if err != nil {
		return err
	}
	if first, err = strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64); err != nil {
		return err
	}
	for ; ; first += batchRows {
		if _, err := e.Insert(ctx, Request{SQL: "INSERT INTO d.t FORMAT Native"}, bytes.NewReader(nativeBlock(first,
			batchRows))); err != nil {
			return err
		}
		fmt.Println(first + batchRows)
	}
}

// Scenario: a process that inserts batches is killed with SIGKILL in the midst, three times, on the same folder.
// Guarantees: every acknowledged batch is there, none is there in part, and at most one more than acknowledged.
func TestKillNine(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	for round := range 3 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), envWriter+"="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		var acknowledged uint64
		for n := 0; n < 3+round && lines.Scan(); n++ {
			if acknowledged, err = strconv.ParseUint(lines.Text(), 10, 64); err != nil {
				t.Fatalf("the writer: %s", lines.Text())
			}
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		for lines.Scan() { // what it acknowledged before the signal came
			if n, err := strconv.ParseUint(lines.Text(), 10, 64); err == nil {
				acknowledged = n
			}
		}
		_ = cmd.Wait() // "signal: killed"
		e, err := open(dir, Options{})
		if err != nil {
			t.Fatal(err)
		}
		var count, distinct, largest uint64
		got := run(t, e, Request{SQL: "SELECT count(), uniqExact(a), max(a) + 1 FROM d.t"})
		if _, err := fmt.Sscan(got, &count, &distinct, &largest); err != nil {
			t.Fatal(err)
		}
		if count != distinct || count != largest || count%batchRows != 0 || count < acknowledged ||
			count > acknowledged+batchRows {
			t.Errorf("round %d: acknowledged %d, got %s", round, acknowledged, got)
		}
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	}
}
