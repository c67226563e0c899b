package native

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Stage is a step of a fetch.
type Stage string

// The stages, in order. Waiting comes only when another process fetches the same library.
const (
	Waiting   Stage = "waiting"
	Fetching  Stage = "fetching"
	Unpacking Stage = "unpacking"
	Ready     Stage = "ready"
)

// Progress is how far a fetch is. Done and Total are bytes of the stage; npm does not say how far it is, so Done is
// 0 while Fetching.
type Progress struct {
	Library     Library
	Stage       Stage
	Done, Total int64
}

const (
	// npmStop is how long npm may take to stop after ctx has ended before it is killed.
	npmStop = 3 * time.Second
	// npmWords bounds what of npm's complaint goes into an error: its last lines say what is wrong.
	npmWords = 600
	// copyStep is how much is copied between two looks at the context and two reports of progress.
	copyStep = 8 << 20
)

// pack has npm download the package's archive into dir and returns its path. npm runs in dir, so that no project's
// package.json or .npmrc has a say; the user's own npm configuration does.
func pack(ctx context.Context, l Library, o Options, dir string) (string, error) {
	spec := l.Package + "@" + l.PackageVersion
	npm, err := exec.LookPath(o.NPM)
	if err != nil {
		return "", l.fault(NPM, nil, "install Node.js with npm, for example: apt-get install npm; "+remedyOwnCopy,
			"npm is needed once to fetch %s and is not in PATH", spec)
	}
	o.Progress(Progress{l, Fetching, 0, l.ArchiveBytes})
	var said bytes.Buffer
	cmd := exec.CommandContext(ctx, npm, "pack", spec, "--ignore-scripts", "--no-update-notifier", "--loglevel=error")
	cmd.Dir = dir
	cmd.Stdout, cmd.Stderr = io.Discard, &said
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = npmStop
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return "", fmt.Errorf("%s %s: fetching %s: %w", l.Name, l.Version, spec, ctx.Err())
		}
		return "", l.fault(Fetch, errors.New(lastWords(said.String(), err)),
			"look at the network and at npm's registry and proxy settings, then start again; "+remedyOwnCopy,
			"npm pack %s", spec)
	}
	found, err := filepath.Glob(filepath.Join(dir, "*.tgz"))
	if err != nil || len(found) != 1 {
		return "", l.fault(Fetch, err, "try the command by hand; "+remedyOwnCopy,
			"npm pack %s: want one .tgz, got %d", spec, len(found))
	}
	return found[0], nil
}

// unpack checks the archive, writes its one wanted file to path, checks that too and makes it durable.
func unpack(ctx context.Context, l Library, o Options, archive, path string) error {
	f, err := os.Open(archive)
	if err != nil {
		return l.fault(Cache, err, remedyCache, "the archive cannot be read")
	}
	defer f.Close()
	// The archive is hashed before it is decompressed: nothing unknown reaches the decoders.
	h := sha512.New()
	n, err := copyCtx(ctx, h, f, l.ArchiveBytes, func(int64) {})
	if err != nil {
		return stopped(ctx, l, Cache, err, "the archive cannot be read")
	}
	if got := "sha512-" + base64.StdEncoding.EncodeToString(h.Sum(nil)); got != l.Integrity {
		return l.fault(Hash, nil, remedyHash, "%s (%d bytes): want %s, got %s", filepath.Base(archive), n, l.Integrity, got)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return l.fault(Cache, err, remedyCache, "the archive cannot be read")
	}
	member, err := openMember(f, l.Member)
	if err != nil {
		return l.fault(Fetch, err, remedyOwnCopy[3:], "%s of %s", l.Member, filepath.Base(archive))
	}
	out, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o500)
	if err != nil {
		return l.fault(Cache, err, remedyCache, "the cache cannot be written")
	}
	defer out.Close()
	h.Reset()
	n, err = copyCtx(ctx, io.MultiWriter(out, h), member, l.LibraryBytes, func(done int64) {
		o.Progress(Progress{l, Unpacking, done, l.LibraryBytes})
	})
	if err != nil {
		return stopped(ctx, l, Cache, err, "%s cannot be unpacked", l.Member)
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != l.SHA512 {
		return l.fault(Hash, nil, remedyHash, "%s (%d bytes): want sha512 %s, got %s", l.Member, n, l.SHA512, got)
	}
	if err := errors.Join(out.Sync(), out.Close()); err != nil {
		return l.fault(Cache, err, remedyCache, "the cache cannot be written")
	}
	return nil
}

const remedyHash = "do not use it: empty npm's cache (npm cache clean --force) and start again; if it stays, the " +
	"registry serves another file than the one this release was tested with"

// openMember returns the content of the regular file name in a .tgz.
func openMember(r io.Reader, name string) (io.Reader, error) {
	z, err := gzip.NewReader(r)
	if err != nil {
		return nil, err
	}
	t := tar.NewReader(z)
	for {
		h, err := t.Next()
		if err == io.EOF {
			return nil, errors.New("no such file in the archive")
		}
		if err != nil {
			return nil, err
		}
		if h.Name == name && h.Typeflag == tar.TypeReg {
			return t, nil
		}
	}
}

// verify hashes the file at the location.
func verify(ctx context.Context, at Location) error {
	l := at.Library
	f, err := os.Open(at.Path)
	if err != nil {
		return l.fault(Cache, err, "", "the library cannot be read")
	}
	defer f.Close()
	h := sha512.New()
	n, err := copyCtx(ctx, h, f, 1<<62, func(int64) {})
	if err != nil {
		return stopped(ctx, l, Cache, err, "the library cannot be read")
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != l.SHA512 {
		remedy := "remove the file, it is fetched again at the next start"
		if at.Origin != FromCache {
			remedy = "it is another build than the one this release was tested with"
		}
		return l.fault(Hash, nil, remedy, "%s (%d bytes): want sha512 %s, got %s", at.Path, n, l.SHA512, got)
	}
	return nil
}

// copyCtx copies r to w, at most limit bytes and one more (which then fails the hash), looking at ctx between steps.
func copyCtx(ctx context.Context, w io.Writer, r io.Reader, limit int64, step func(done int64)) (int64, error) {
	r = io.LimitReader(r, limit+1)
	var done int64
	for {
		if err := ctx.Err(); err != nil {
			return done, err
		}
		n, err := io.CopyN(w, r, copyStep)
		done += n
		step(done)
		if err == io.EOF {
			return done, nil
		}
		if err != nil {
			return done, err
		}
	}
}

// stopped tells the caller's cancellation from a fault.
func stopped(ctx context.Context, l Library, kind Kind, err error, problem string, args ...any) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%s %s: %w", l.Name, l.Version, ctx.Err())
	}
	return l.fault(kind, err, remedyCache, problem, args...)
}

// lastWords is the end of what npm wrote, on one line, or the exit status if it wrote nothing.
func lastWords(said string, err error) string {
	s := strings.Join(strings.Fields(said), " ")
	if s == "" {
		return err.Error()
	}
	if len(s) > npmWords {
		s = "... " + s[len(s)-npmWords:]
	}
	return s
}
