package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"
)

// limits are what the machine can do at best, measured in the same run as what they are compared with.
type limits struct {
	CopyGBs     float64 `json:"memory_copy_gb_per_s"` // bytes copied, on one core, from and to 256 MiB
	LoopbackGBs float64 `json:"loopback_gb_per_s"`    // one connection, writes of 256 KiB, sender and receiver together
	DiskGBs     float64 `json:"disk_gb_per_s"`        // 256 MiB written and synced
	FsyncMS     spread  `json:"fsync_ms"`             // 4 KiB appended and synced
}

// The sizes: far over the caches, and short enough for a few seconds in all.
const (
	copyBytes     = 256 << 20
	loopbackBytes = 1 << 30
	loopbackWrite = 256 << 10
	limitRounds   = 3 // the best of
	fsyncs        = 50
)

// measureLimits uses a folder on the disk that the state store is on.
func measureLimits(dir string) (l limits, err error) {
	from, to := make([]byte, copyBytes), make([]byte, copyBytes)
	for i := range from {
		from[i] = byte(i)
	}
	for range limitRounds {
		begin := time.Now()
		copy(to, from)
		l.CopyGBs = max(l.CopyGBs, copyBytes/1e9/time.Since(begin).Seconds())
		took, err := loopback(from[:loopbackWrite])
		if err != nil {
			return l, fmt.Errorf("loopback: %w", err)
		}
		l.LoopbackGBs = max(l.LoopbackGBs, loopbackBytes/1e9/took.Seconds())
		if took, err = writeSynced(dir, from); err != nil {
			return l, err
		}
		l.DiskGBs = max(l.DiskGBs, copyBytes/1e9/took.Seconds())
	}
	l.FsyncMS, err = fsyncTimes(dir, from[:4<<10])
	return l, err
}

// loopback sends loopbackBytes through one connection.
func loopback(chunk []byte) (time.Duration, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer listener.Close()
	sent := make(chan error, 1)
	go func() { sent <- sendAll(listener.Addr().String(), chunk) }()
	conn, err := listener.Accept()
	if err != nil {
		return 0, errors.Join(err, <-sent)
	}
	defer conn.Close()
	begin := time.Now()
	buffer := make([]byte, loopbackWrite)
	var n int64
	for {
		got, err := conn.Read(buffer)
		n += int64(got)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return 0, errors.Join(err, conn.Close(), <-sent)
		}
	}
	took := time.Since(begin)
	if err := <-sent; err != nil {
		return 0, err
	}
	if n != loopbackBytes {
		return 0, fmt.Errorf("want %d bytes, got %d", loopbackBytes, n)
	}
	return took, nil
}

func sendAll(address string, chunk []byte) (err error) {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	for range loopbackBytes / len(chunk) {
		if _, err := conn.Write(chunk); err != nil {
			return err
		}
	}
	return nil
}

func writeSynced(dir string, data []byte) (took time.Duration, err error) {
	path := filepath.Join(dir, "limit")
	begin := time.Now()
	f, err := os.Create(path)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.Remove(path)) }()
	if _, err = f.Write(data); err == nil {
		err = f.Sync()
	}
	return time.Since(begin), errors.Join(err, f.Close())
}

func fsyncTimes(dir string, page []byte) (_ spread, err error) {
	path := filepath.Join(dir, "limit")
	f, err := os.Create(path)
	if err != nil {
		return spread{}, err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(path)) }()
	var took []time.Duration
	for range fsyncs {
		begin := time.Now()
		if _, err := f.Write(page); err != nil {
			return spread{}, err
		}
		if err := f.Sync(); err != nil {
			return spread{}, err
		}
		took = append(took, time.Since(begin))
	}
	return spreadOf(took), nil
}
