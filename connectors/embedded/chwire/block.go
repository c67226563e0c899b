package chwire

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
)

// Column is a column's name and type.
type Column struct{ Name, Type string }

// Limits bounds one block.
type Limits struct {
	Columns uint64
	Rows    uint64
}

// Block is the start of a block: what stands before its columns.
type Block struct{ Columns, Rows uint64 }

// End is true for the block that ends a stream of blocks.
func (b Block) End() bool { return b.Columns == 0 }

// blockInfo is what the Go clients and servers send: no overflows, bucket -1.
var blockInfo = []byte{1, 0, 2, 0xff, 0xff, 0xff, 0xff, 0}

// ReadBlock takes the start of a block of a revision.
func ReadBlock(src *Reader, revision int, limits Limits) (Block, error) {
	var b Block
	if revision >= revisionBlockInfo {
		if err := readBlockInfo(src); err != nil {
			return b, fmt.Errorf("block info: %w", err)
		}
	}
	var err error
	if b.Columns, err = src.Uvarint(); err != nil {
		return b, fmt.Errorf("number of columns: %w", err)
	}
	if b.Rows, err = src.Uvarint(); err != nil {
		return b, fmt.Errorf("number of rows: %w", err)
	}
	if b.Columns > limits.Columns {
		return b, &LimitError{What: "columns of a block", Limit: int64(limits.Columns)}
	}
	if b.Rows > limits.Rows {
		return b, &LimitError{What: "rows of a block", Limit: int64(limits.Rows)}
	}
	return b, nil
}

func readBlockInfo(src *Reader) error {
	var skip [4]byte
	for {
		field, err := src.Uvarint()
		if err != nil {
			return err
		}
		switch field {
		case 0:
			return nil
		case 1:
			err = src.Full(skip[:1])
		case 2:
			err = src.Full(skip[:4])
		default:
			return fmt.Errorf("want field 0, 1 or 2, got %d", field)
		}
		if err != nil {
			return err
		}
	}
}

// Start writes the start of a block in a revision.
func (b Block) Start(dst *bufio.Writer, revision int) error {
	if revision >= revisionBlockInfo {
		if _, err := dst.Write(blockInfo); err != nil {
			return &SinkError{Err: err}
		}
	}
	if err := putUvarint(dst, b.Columns); err != nil {
		return err
	}
	return putUvarint(dst, b.Rows)
}

// Copy passes a block's columns on, from one revision to another; the start has been read and written. It returns the
// columns. An error that is a *SinkError is one of dst; any other leaves src at an unknown place.
func (b Block) Copy(dst *bufio.Writer, src *Reader, from, to int) ([]Column, error) {
	columns := make([]Column, 0, min(b.Columns, 256))
	for i := range b.Columns {
		c, err := b.copyColumn(dst, src, from, to)
		if err != nil {
			return nil, fmt.Errorf("column %d %q %s: %w", i, c.Name, c.Type, err)
		}
		columns = append(columns, c)
	}
	return columns, nil
}

func (b Block) copyColumn(dst *bufio.Writer, src *Reader, from, to int) (c Column, err error) {
	if c.Name, err = src.String(); err != nil {
		return c, fmt.Errorf("name: %w", err)
	}
	if c.Type, err = src.String(); err != nil {
		return c, fmt.Errorf("type: %w", err)
	}
	s, err := parseType(c.Type, 0)
	if err != nil {
		return c, err
	}
	if from >= revisionCustomSerialization {
		custom, err := src.Byte()
		if err != nil {
			return c, err
		}
		if custom != 0 {
			return c, errors.New("custom (sparse) serialization: want none, got one")
		}
	}
	if err := putColumn(dst, c, to); err != nil {
		return c, err
	}
	// A column without rows has no prefix: NativeReader.cpp reads none, NativeWriter.cpp writes none.
	if b.Rows == 0 {
		return c, nil
	}
	if err := copyPrefix(dst, src, s); err != nil {
		return c, err
	}
	return c, copyValues(dst, src, s, int64(b.Rows))
}

func putColumn(dst *bufio.Writer, c Column, revision int) error {
	if err := putString(dst, c.Name); err != nil {
		return err
	}
	if err := putString(dst, c.Type); err != nil {
		return err
	}
	if revision >= revisionCustomSerialization {
		if err := dst.WriteByte(0); err != nil {
			return &SinkError{Err: err}
		}
	}
	return nil
}

// WriteHeader writes a block of columns without rows.
func WriteHeader(dst *bufio.Writer, columns []Column, revision int) error {
	if err := (Block{Columns: uint64(len(columns))}).Start(dst, revision); err != nil {
		return err
	}
	for _, c := range columns {
		if err := putColumn(dst, c, revision); err != nil {
			return err
		}
	}
	return nil
}

// lowCardinalityVersion is the only version of the keys' serialization (SerializationLowCardinality.cpp).
const lowCardinalityVersion = 1

// copyPrefix passes on what stands before all values of a column: the version of each dictionary in it.
func copyPrefix(dst *bufio.Writer, src *Reader, s *shape) error {
	if s.kind == lowCardinality {
		version, err := copyUint64(dst, src)
		if err != nil {
			return err
		}
		if version != lowCardinalityVersion {
			return fmt.Errorf("LowCardinality: want version %d, got %d", lowCardinalityVersion, version)
		}
		return nil
	}
	for _, part := range s.parts {
		if err := copyPrefix(dst, src, part); err != nil {
			return err
		}
	}
	return nil
}

func copyValues(dst *bufio.Writer, src *Reader, s *shape, n int64) error {
	if n > src.left && s.kind != tuple { // every value is at least a byte: no product below overflows
		return &LimitError{What: src.what, Limit: src.max}
	}
	switch s.kind {
	case fixed:
		if n > src.left/s.width {
			return &LimitError{What: src.what, Limit: src.max}
		}
		return src.copyN(dst, n*s.width)
	case text:
		return src.copyStrings(dst, n)
	case nullable:
		if err := src.copyN(dst, n); err != nil {
			return err
		}
		return copyValues(dst, src, s.parts[0], n)
	case array:
		return copyArray(dst, src, s, n)
	case lowCardinality:
		return copyLowCardinality(dst, src, s, n)
	}
	for _, part := range s.parts { // tuple
		if err := copyValues(dst, src, part, n); err != nil {
			return err
		}
	}
	return nil
}

func copyArray(dst *bufio.Writer, src *Reader, s *shape, n int64) error {
	if n == 0 {
		return copyValues(dst, src, s.parts[0], 0)
	}
	if n > src.left/8 {
		return &LimitError{What: src.what, Limit: src.max}
	}
	if err := src.copyN(dst, 8*(n-1)); err != nil {
		return err
	}
	total, err := copyUint64(dst, src)
	if err != nil {
		return err
	}
	if total > uint64(src.left) {
		return &LimitError{What: src.what, Limit: src.max}
	}
	return copyValues(dst, src, s.parts[0], int64(total))
}

// Flags of a part of a LowCardinality column, above the byte with the width of its indices.
const (
	lowCardinalityGlobal = 1 << 8 // keys of all parts, in files only
	lowCardinalityKeys   = 1 << 9 // the part brings its keys
)

func copyLowCardinality(dst *bufio.Writer, src *Reader, s *shape, n int64) error {
	for n > 0 {
		flags, err := copyUint64(dst, src)
		if err != nil {
			return err
		}
		width := flags & 0xff
		if width > 3 || flags&lowCardinalityGlobal != 0 || flags&lowCardinalityKeys == 0 {
			return fmt.Errorf("LowCardinality: want keys of its own and indices of 1, 2, 4 or 8 bytes, got flags %#x", flags)
		}
		keys, err := copyUint64(dst, src)
		if err != nil {
			return err
		}
		if keys > uint64(src.left) {
			return &LimitError{What: src.what, Limit: src.max}
		}
		if err := copyValues(dst, src, s.parts[0], int64(keys)); err != nil {
			return err
		}
		rows, err := copyUint64(dst, src)
		if err != nil {
			return err
		}
		if rows == 0 || rows > uint64(n) {
			return fmt.Errorf("LowCardinality: want indices for 1 to %d rows, got %d", n, rows)
		}
		if int64(rows) > src.left>>width {
			return &LimitError{What: src.what, Limit: src.max}
		}
		if err := src.copyN(dst, int64(rows)<<width); err != nil {
			return err
		}
		n -= int64(rows)
	}
	return nil
}

func copyUint64(dst *bufio.Writer, src *Reader) (uint64, error) {
	x, err := src.Uint64()
	if err != nil {
		return 0, err
	}
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], x)
	if _, err := dst.Write(b[:]); err != nil {
		return 0, &SinkError{Err: err}
	}
	return x, nil
}
