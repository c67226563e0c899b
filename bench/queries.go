package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// answerMax bounds an answer: results here are a few numbers, or the values of one row.
const answerMax = 16 << 20

// queryLimit bounds one question: the largest compares some millions of rows.
const queryLimit = 5 * time.Minute

// queries asks ClickHouse over HTTP. The zero user reads.
type queries struct {
	address        string
	user, password string
	database       string // "" is the server's default
}

func (q *queries) do(ctx context.Context, sql string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, queryLimit)
	defer cancel()
	settings := url.Values{}
	if q.user != "" {
		settings.Set("user", q.user)
		settings.Set("password", q.password)
	}
	if q.database != "" {
		settings.Set("database", q.database)
	}
	address := "http://" + q.address + "/?" + settings.Encode()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, address, strings.NewReader(sql))
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, answerMax))
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("clickhouse: status %d: %s: %s", response.StatusCode, strings.TrimSpace(string(text)), sql)
	}
	return text, nil
}

func (q *queries) ping(ctx context.Context) error {
	_, err := q.do(ctx, "SELECT 1")
	return err
}

// row reads the one row of a result into the fields of to, by name.
func (q *queries) row(ctx context.Context, sql string, to any) error {
	text, err := q.do(ctx, sql+" FORMAT JSONEachRow SETTINGS output_format_json_quote_64bit_integers=0")
	if err != nil {
		return err
	}
	if n := bytes.Count(text, []byte("\n")); n != 1 {
		return fmt.Errorf("clickhouse: want 1 row, got %d: %s", n, sql)
	}
	if err := json.Unmarshal(text, to); err != nil {
		return fmt.Errorf("clickhouse: %w: %s", err, sql)
	}
	return nil
}
