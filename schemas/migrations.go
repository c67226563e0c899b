package schemas

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
)

//go:embed clickhouse/*.sql
var clickhouse embed.FS

// Migration is one numbered step of the ClickHouse tables. A migration that was released is never edited: the next one
// changes what it made.
type Migration struct {
	Version uint32 // from 1, without gaps
	Name    string // of the file, without number and suffix
	SQL     string // the file
	SHA256  string // of the file, lowercase hex
}

// Migrations returns the steps in order.
func Migrations() ([]Migration, error) {
	files, err := clickhouse.ReadDir("clickhouse")
	if err != nil {
		return nil, fmt.Errorf("migrations: %w", err)
	}
	list := make([]Migration, 0, len(files))
	for i, f := range files {
		text, err := clickhouse.ReadFile("clickhouse/" + f.Name())
		if err != nil {
			return nil, fmt.Errorf("migrations: %w", err)
		}
		number, name, _ := strings.Cut(strings.TrimSuffix(f.Name(), ".sql"), "_")
		if version, err := strconv.Atoi(number); err != nil || version != i+1 {
			return nil, fmt.Errorf("migration %s: want number %04d", f.Name(), i+1)
		}
		sum := sha256.Sum256(text)
		list = append(list, Migration{Version: uint32(i + 1), Name: name, SQL: string(text), SHA256: hex.EncodeToString(sum[:])})
	}
	return list, nil
}

// Statements cuts the migration into its statements, without their comments: a server takes one at a time. A statement
// ends at a line that ends in a semicolon.
func (m Migration) Statements() []string {
	var list []string
	var b strings.Builder
	for line := range strings.Lines(m.SQL) {
		if strings.HasPrefix(line, "--") {
			continue
		}
		b.WriteString(line)
		if strings.HasSuffix(strings.TrimSpace(line), ";") {
			list = append(list, strings.TrimSuffix(strings.TrimSpace(b.String()), ";"))
			b.Reset()
		}
	}
	if rest := strings.TrimSpace(b.String()); rest != "" {
		list = append(list, rest)
	}
	return list
}
