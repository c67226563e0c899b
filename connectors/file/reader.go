// Package file reads recorded data into telemetry.v1: wide and long CSV, and the .dat files of the Tennessee Eastman
// Process. Several files are merged in the order of time; rows of one time keep the order of the files. A file whose own
// times go back is read as it stands.
//
// Lineage: k_topic is "file", k_part 0, k_offset the number of the value in the merged stream from 0. ts_ingest is the
// event time, so that reading the same files gives the same records.
package file

import (
	"compress/gzip"
	"container/heap"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"path/filepath"
	"strings"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/memory"
	"github.com/tailrace/tailrace/pipeline"
	"github.com/tailrace/tailrace/schemas"
)

// batchValues is about how many values a record has: large enough that its fixed costs do not count.
const batchValues = 16384

// Reader gives the values of its files in the order of time. It is for one goroutine.
type Reader struct {
	streams streams
	files   []io.Closer
	builder *schemas.TelemetryBuilder
	offset  int64
}

// stream is one file: its rows in the order in which they stand.
type stream interface {
	// next reads a row; io.EOF at the end.
	next() error
	// time is the row's, ns UTC.
	time() int64
	// values gives the row's values to each, who borrows them.
	values(each func(row *schemas.Row))
}

// Open opens every file. Faults in the config or in a header wrap pipeline.ErrConfig.
func Open(root fs.FS, c Config, mem memory.Allocator) (*Reader, error) {
	var faults []error
	for _, f := range c.Validate() {
		faults = append(faults, f)
	}
	if len(faults) > 0 {
		return nil, fmt.Errorf("%w: %w", pipeline.ErrConfig, errors.Join(faults...))
	}
	r := &Reader{builder: schemas.NewTelemetryBuilder(mem, "file", 0)}
	for i, name := range c.Files {
		s, err := r.open(root, name, &c)
		if err == nil {
			err = s.next()
		}
		if errors.Is(err, io.EOF) {
			continue // a file without rows has nothing to give
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("%w: %s: %w", pipeline.ErrConfig, name, err), r.Close())
		}
		r.streams = append(r.streams, ordered{stream: s, file: i, name: name})
	}
	heap.Init(&r.streams)
	return r, nil
}

func (r *Reader) open(root fs.FS, name string, c *Config) (stream, error) {
	f, err := root.Open(filepath.ToSlash(name))
	if err != nil {
		return nil, err
	}
	r.files = append(r.files, f)
	var text io.Reader = f
	if strings.HasSuffix(name, ".gz") {
		unpacked, err := gzip.NewReader(f)
		if err != nil {
			return nil, fmt.Errorf("gzip: %w", err)
		}
		r.files = append(r.files, unpacked)
		text = unpacked
	}
	text = &bounded{r: text, left: int64(c.MaxFile)}
	base, _, _ := strings.Cut(path.Base(filepath.ToSlash(name)), ".")
	asset := strings.ReplaceAll(c.Asset, "{file}", base)
	switch c.Format {
	case FormatTEP:
		return newTEP(text, asset, c)
	case FormatLong:
		return newLong(text, c)
	}
	return newWide(text, asset, c)
}

// Next returns the next values as a record of telemetry.v1, which the caller owns, or io.EOF. Values of one time in one
// file stay together.
func (r *Reader) Next(ctx context.Context) (arrow.Record, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	for r.builder.Len() < batchValues && len(r.streams) > 0 {
		first := &r.streams[0]
		ts := first.time()
		first.values(func(row *schemas.Row) {
			r.builder.Append(row, r.offset, ts)
			r.offset++
		})
		switch err := first.next(); {
		case errors.Is(err, io.EOF):
			heap.Pop(&r.streams)
		case err != nil:
			return nil, fmt.Errorf("%s: %w", first.name, err)
		default:
			heap.Fix(&r.streams, 0)
		}
	}
	if r.builder.Len() == 0 {
		return nil, io.EOF
	}
	return r.builder.NewRecord(), nil
}

// Close closes the files.
func (r *Reader) Close() error {
	r.builder.Release()
	var faults []error
	for _, f := range r.files {
		faults = append(faults, f.Close())
	}
	return errors.Join(faults...)
}

// ordered is a stream with its place in the list of files.
type ordered struct {
	stream
	file int
	name string
}

// streams is a heap by time, then by file.
type streams []ordered

func (s streams) Len() int      { return len(s) }
func (s streams) Swap(i, j int) { s[i], s[j] = s[j], s[i] }
func (s streams) Less(i, j int) bool {
	a, b := s[i].time(), s[j].time()
	return a < b || a == b && s[i].file < s[j].file
}
func (s *streams) Push(x any) { *s = append(*s, x.(ordered)) }
func (s *streams) Pop() any {
	last := (*s)[len(*s)-1]
	*s = (*s)[:len(*s)-1]
	return last
}

// bounded reads up to a limit and then says so, where io.LimitReader would end as if the file did.
type bounded struct {
	r    io.Reader
	left int64
}

func (b *bounded) Read(p []byte) (int, error) {
	// One byte more than may come tells a file that is too large from one that just fits.
	n, err := b.r.Read(p[:min(int64(len(p)), b.left+1)])
	if b.left -= int64(n); b.left < 0 {
		return 0, errors.New("max_file: want a smaller file, or a higher limit")
	}
	return n, err
}
