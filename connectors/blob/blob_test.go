package blob

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tailrace/tailrace/pipeline"
	"github.com/tailrace/tailrace/pipeline/state"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// open opens a store and checks it.
func open(t *testing.T, url string) state.Store {
	t.Helper()
	s, err := Open(url)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func names(t *testing.T, s state.Store, prefix string) []string {
	t.Helper()
	list, err := s.List(t.Context(), prefix)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, b := range list {
		out = append(out, fmt.Sprintf("%s:%d", b.Name, b.Size))
		if b.Modified.IsZero() || b.Modified.After(time.Now().Add(time.Hour)) {
			t.Errorf("%s: want the time it was written, got %v", b.Name, b.Modified)
		}
	}
	return out
}

// Scenario: Every store: put, get, put again with the same and with other bytes, list, delete twice.
// Guarantees: The contract of state.Store, the same for all.
func TestContract(t *testing.T) {
	for _, url := range []string{"mem://", "file://" + t.TempDir() + "/new/store", "file://localhost" + t.TempDir()} {
		t.Run(url[:4], func(t *testing.T) {
			s, ctx := open(t, url), t.Context()
			data := []byte("one")
			for _, name := range []string{"p/r1/2-bb", "p/r1/1-aa", "p/r10/1-cc", "top", "q/x"} {
				if err := s.Put(ctx, name, data); err != nil {
					t.Fatal(err)
				}
			}
			data[0] = 'X' // the store has a copy
			got, err := s.Get(ctx, "p/r1/1-aa")
			if err != nil || string(got) != "one" {
				t.Fatalf("want one, got %q, %v", got, err)
			}
			got[0] = 'Y'
			if again, _ := s.Get(ctx, "p/r1/1-aa"); string(again) != "one" {
				t.Errorf("want one again, got %q", again)
			}
			if err := s.Put(ctx, "p/r1/1-aa", []byte("one")); err != nil {
				t.Errorf("the same again: want no error, got %v", err)
			}
			err = s.Put(ctx, "p/r1/1-aa", []byte("two"))
			if err == nil || !strings.Contains(err.Error(), "a name is written once") {
				t.Errorf("other bytes: want a refusal, got %v", err)
			}
			for prefix, want := range map[string]string{
				"": "p/r1/1-aa:3 p/r1/2-bb:3 p/r10/1-cc:3 q/x:3 top:3", "p/r1": "p/r1/1-aa:3 p/r1/2-bb:3 p/r10/1-cc:3",
				"p/r1/": "p/r1/1-aa:3 p/r1/2-bb:3", "p/r1/2": "p/r1/2-bb:3", "none/": "",
			} {
				if got := strings.Join(names(t, s, prefix), " "); got != want {
					t.Errorf("list %q: want %s, got %s", prefix, want, got)
				}
			}
			for range 2 {
				if err := s.Delete(ctx, "p/r1/1-aa"); err != nil {
					t.Errorf("delete: want no error, got %v", err)
				}
			}
			if _, err := s.Get(ctx, "p/r1/1-aa"); !errors.Is(err, state.ErrNotFound) {
				t.Errorf("want ErrNotFound, got %v", err)
			}
			ended, cancel := context.WithCancel(ctx)
			cancel()
			if _, err := s.Get(ended, "q/x"); !errors.Is(err, context.Canceled) {
				t.Errorf("want the end of the context, got %v", err)
			}
			for _, name := range []string{"", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a/.hidden", "a\x00b", `a\b`,
				strings.Repeat("a", 256), strings.Repeat("a/", 600) + "a"} {
				_, get := s.Get(ctx, name)
				for _, err := range []error{s.Put(ctx, name, nil), get, s.Delete(ctx, name)} {
					if err == nil || !strings.Contains(err.Error(), "name of a blob: want") || len(err.Error()) > 700 {
						t.Errorf("%.40q: want a refusal of the name, got %v", name, err)
					}
				}
			}
		})
	}
}

// Scenario: URLs that name no store.
// Guarantees: A config error that says what is wanted and shows no password.
func TestOpenErrors(t *testing.T) {
	for url, want := range map[string]string{
		"":                             "got no scheme",
		"/var/lib/tailrace":            "got no scheme",
		"s3://key:secret@bucket/a":     `s3://bucket/a: want file:///absolute/folder or mem://, got the scheme "s3"`,
		"gs://bucket":                  `got the scheme "gs"`,
		"file://var/lib":               `want three slashes before an absolute path, got "var" for a host`,
		"file:relative":                "want an absolute path",
		"file://":                      "want an absolute path",
		"file:///a?secret=1":           "want no user, query or fragment",
		"file:///a%00b":                "want an absolute path",
		"mem://name":                   "want nothing after mem://",
		"file://user:secret@%zz/\x7f/": "got what is not a URL",
	} {
		s, err := Open(url)
		if s != nil || !errors.Is(err, pipeline.ErrConfig) || !strings.Contains(err.Error(), want) ||
			strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: want a config error with %q, got %v", url, want, err)
		}
	}
}

// Scenario: A store in a folder; what it leaves on disk.
// Guarantees: Folders and files are for their owner alone; nothing but the blobs and the marker stays, also after a
// delete.
func TestFolderOnDisk(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	s := open(t, "file://"+dir)
	if err := s.Put(t.Context(), "p/r/1-aa", bytes.Repeat([]byte("x"), 3*chunk+1)); err != nil {
		t.Fatal(err)
	}
	found := func() string {
		var out []string
		err := filepath.Walk(dir, func(path string, info fs.FileInfo, err error) error {
			rel, _ := filepath.Rel(dir, path)
			out = append(out, fmt.Sprintf("%s %s", rel, info.Mode()))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(out, ", ")
	}
	want := ". drwx------, .tailrace-state -rw-------, p drwx------, p/r drwx------, p/r/1-aa -rw-------"
	if found() != want {
		t.Errorf("want %s, got %s", want, found())
	}
	if err := s.Delete(t.Context(), "p/r/1-aa"); err != nil {
		t.Fatal(err)
	}
	if want := ". drwx------, .tailrace-state -rw-------"; found() != want {
		t.Errorf("after the delete: want %s, got %s", want, found())
	}
}

// Scenario: Links in the store that lead out of it, and a folder where a blob's name is.
// Guarantees: Nothing outside is read, written or removed.
func TestLinks(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	s, ctx := open(t, "file://"+dir), t.Context()
	secret := filepath.Join(outside, "secret")
	for _, err := range []error{
		os.WriteFile(secret, []byte("secret"), 0o600), os.Symlink(outside, filepath.Join(dir, "out")),
		os.Symlink(secret, filepath.Join(dir, "file")), os.MkdirAll(filepath.Join(dir, "folder", "in"), 0o700),
		os.Symlink(".tailrace-state", filepath.Join(dir, "inside")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"out/secret", "file", "folder", "inside"} {
		if data, err := s.Get(ctx, name); err == nil {
			t.Errorf("get %s: want an error, got %q", name, data)
		}
	}
	if err := s.Put(ctx, "out/new", []byte("x")); err == nil {
		t.Error("put out/new: want an error")
	}
	if err := s.Put(ctx, "file", []byte("secret")); err == nil {
		t.Error("put file: want an error")
	}
	if got := names(t, s, ""); len(got) > 0 {
		t.Errorf("want no blob, got %v", got)
	}
	if err := s.Delete(ctx, "out/secret"); err == nil {
		t.Error("delete out/secret: want an error")
	}
	if left, err := os.ReadDir(outside); err != nil || len(left) != 1 {
		t.Errorf("want the secret alone outside, got %v, %v", left, err)
	}
}

// Scenario: The folder is moved away, replaced by an empty one as by an unmount, replaced by a file, and comes back.
// Guarantees: Errors that name the folder and the cause and are never ErrNotFound; then the store goes on.
func TestFolderGone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	s, ctx := open(t, "file://"+dir), t.Context()
	if err := s.Put(ctx, "a/b", []byte("x")); err != nil {
		t.Fatal(err)
	}
	all := func(what, cause string) {
		t.Helper()
		_, get := s.Get(ctx, "a/b")
		_, list := s.List(ctx, "")
		for _, err := range []error{get, list, s.Put(ctx, "a/c", nil), s.Delete(ctx, "a/b")} {
			if err == nil || errors.Is(err, state.ErrNotFound) || !strings.Contains(err.Error(), dir) ||
				!strings.Contains(err.Error(), cause) {
				t.Errorf("%s: want an error with %s and %q, got %v", what, dir, cause, err)
			}
		}
	}
	if err := os.Rename(dir, dir+"2"); err != nil {
		t.Fatal(err)
	}
	all("no folder", "no such file or directory")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	all("empty folder", "want the file .tailrace-state in it: is it mounted?")
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("want nothing written into the empty folder, got %v, %v", left, err)
	}
	for _, err := range []error{os.Remove(dir), os.WriteFile(dir, nil, 0o600)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	all("a file", "not a directory")
	if err := s.Open(ctx); err == nil || !strings.Contains(err.Error(), "not a directory") {
		t.Errorf("open: want the cause, got %v", err)
	}
	for _, err := range []error{os.Remove(dir), os.Rename(dir+"2", dir)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if data, err := s.Get(ctx, "a/b"); err != nil || string(data) != "x" {
		t.Errorf("want the blob back, got %q, %v", data, err)
	}
}

// Scenario: Many writers of one name at once, over two stores on one folder, while others delete blobs beside it.
// Guarantees: Every Put succeeds, the blob is whole at any moment, and no other file is left.
func TestConcurrentPuts(t *testing.T) {
	dir := t.TempDir()
	stores := []state.Store{open(t, "file://"+dir), open(t, "file://"+dir)}
	data := bytes.Repeat([]byte("blob"), 50_000)
	var wg sync.WaitGroup
	for i := range 8 {
		s := stores[i%2]
		wg.Go(func() {
			for round := range 10 {
				name := fmt.Sprintf("p/%d/1-aa", round)
				if err := s.Put(t.Context(), name, data); err != nil {
					t.Error(err)
				}
				if got, err := s.Get(t.Context(), name); err != nil || !bytes.Equal(got, data) {
					t.Errorf("want the whole blob, got %d bytes, %v", len(got), err)
				}
				other := fmt.Sprintf("other/%d-aa", i)
				if err := errors.Join(s.Put(t.Context(), other, []byte("x")), s.Delete(t.Context(), other)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if got := names(t, stores[0], ""); len(got) != 10 {
		t.Errorf("want 10 blobs, got %v", got)
	}
	if err := fs.WalkDir(os.DirFS(dir), ".", func(name string, _ fs.DirEntry, err error) error {
		if strings.Contains(name, unfinished) {
			t.Errorf("want no file %s left", name)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

// Scenario: A crash has left files that were being written, one long ago and one just now.
// Guarantees: Neither is listed; Open removes the old one, and leaves the other to its writer.
func TestLeftovers(t *testing.T) {
	dir := t.TempDir()
	s := open(t, "file://"+dir)
	old, young := filepath.Join(dir, "p", unfinished+"old"), filepath.Join(dir, "p", unfinished+"young")
	for _, err := range []error{
		os.Mkdir(filepath.Join(dir, "p"), 0o700),
		os.WriteFile(old, []byte("x"), 0o600), os.WriteFile(young, []byte("x"), 0o600),
		os.Chtimes(old, time.Time{}, time.Now().Add(-2*stale)),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if got := names(t, s, "p/"); len(got) > 0 {
		t.Errorf("want no blob, got %v", got)
	}
	if err := s.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(filepath.Join(dir, "p"))
	if err != nil || len(left) != 1 || left[0].Name() != unfinished+"young" {
		t.Errorf("want the young one alone, got %v, %v", left, err)
	}
}

// badDisk is a disk on which one thing fails, and that notes what is done.
type badDisk struct {
	osDisk
	fails string // "write", "sync", "close", "link" or "folder"
	err   error
	done  []string
}

func (d *badDisk) step(what string) error {
	d.done = append(d.done, what)
	if d.fails == what {
		return d.err
	}
	return nil
}

type badFile struct {
	file
	disk *badDisk
}

func (f badFile) Write(p []byte) (int, error) {
	if err := f.disk.step("write"); err != nil {
		n, _ := f.file.Write(p[:len(p)/2]) // a disk that becomes full takes a part
		return n, err
	}
	return f.file.Write(p)
}

func (f badFile) Sync() error  { return errors.Join(f.disk.step("sync"), f.file.Sync()) }
func (f badFile) Close() error { return errors.Join(f.disk.step("close"), f.file.Close()) }

func (d *badDisk) create(root *os.Root, name string) (file, error) {
	f, err := d.osDisk.create(root, name)
	return badFile{f, d}, err
}

func (d *badDisk) link(root *os.Root, from, to string) error {
	if err := d.step("link"); err != nil {
		return err
	}
	return d.osDisk.link(root, from, to)
}

func (d *badDisk) syncFolder(root *os.Root, name string) error {
	return errors.Join(d.step("folder"), d.osDisk.syncFolder(root, name))
}

// Scenario: The disk is full, or broken, in each step of a Put and of Open; then it is mended.
// Guarantees: The error says which folder, what and why; no half blob is seen and no file left; another try succeeds.
func TestFailingDisk(t *testing.T) {
	for _, step := range []string{"write", "sync", "close", "link", "folder"} {
		for _, cause := range []error{syscall.ENOSPC, syscall.EIO} {
			dir := t.TempDir()
			disk := &badDisk{}
			s := &folder{path: dir, disk: disk}
			ctx := t.Context()
			disk.fails, disk.err = step, cause
			if err := s.Open(ctx); !errors.Is(err, cause) || !strings.Contains(err.Error(), "state store "+dir+": open: ") {
				t.Errorf("%s: open: want the cause and the folder, got %v", step, err)
			}
			disk.fails = ""
			if err := s.Open(ctx); err != nil {
				t.Fatal(err)
			}
			disk.fails = step
			err := s.Put(ctx, "p/1-aa", []byte("whole"))
			if !errors.Is(err, cause) || !strings.Contains(err.Error(), "state store "+dir+": put p/1-aa: ") {
				t.Errorf("%s: put: want the cause, the folder and the blob, got %v", step, err)
			}
			if data, err := s.Get(ctx, "p/1-aa"); step != "folder" && !errors.Is(err, state.ErrNotFound) {
				t.Errorf("%s: want no blob, got %q, %v", step, data, err)
			}
			disk.fails = ""
			if err := s.Put(ctx, "p/1-aa", []byte("whole")); err != nil {
				t.Errorf("%s: want success when the disk is mended, got %v", step, err)
			}
			left, err := os.ReadDir(filepath.Join(dir, "p"))
			if data, _ := s.Get(ctx, "p/1-aa"); string(data) != "whole" || err != nil || len(left) != 1 {
				t.Errorf("%s: want the blob alone, got %q among %v, %v", step, data, left, err)
			}
		}
	}
}

// Scenario: Open of a store two folders of which there are not, and a Put of 2.5 MiB into two new folders.
// Guarantees: The bytes are synced before the name is there, and the folders after it, each of them.
func TestOrderOfSyncs(t *testing.T) {
	disk := &badDisk{}
	s := &folder{path: filepath.Join(t.TempDir(), "a", "b"), disk: disk}
	if err := s.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	if want := []string{"folder", "folder", "write", "sync", "close", "link", "folder"}; !slices.Equal(disk.done, want) {
		t.Errorf("open: want %v, got %v", want, disk.done)
	}
	disk.done = nil
	if err := s.Put(t.Context(), "p/r/1-aa", make([]byte, 5*chunk/2)); err != nil {
		t.Fatal(err)
	}
	want := []string{"write", "write", "write", "sync", "close", "link", "folder", "folder", "folder"}
	if !slices.Equal(disk.done, want) {
		t.Errorf("want %v, got %v", want, disk.done)
	}
}

// Scenario: A file system without hard links.
// Guarantees: The blob is moved into place; a second Put finds it.
func TestNoHardLinks(t *testing.T) {
	disk := &badDisk{fails: "link", err: &os.LinkError{Op: "link", Err: syscall.EPERM}}
	s := &folder{path: t.TempDir(), disk: disk}
	if err := s.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Put(t.Context(), "p/1-aa", []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Put(t.Context(), "p/1-aa", []byte("y")); err == nil {
		t.Error("want other bytes to be refused")
	}
	if got := names(t, s, ""); !slices.Equal(got, []string{"p/1-aa:1"}) {
		t.Errorf("want the blob, got %v", got)
	}
}

// Scenario: The context ends while a large blob is written.
// Guarantees: Put stops at the next piece and leaves nothing.
func TestPutCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	disk := &badDisk{}
	s := &folder{path: t.TempDir(), disk: disk}
	if err := s.Open(ctx); err != nil {
		t.Fatal(err)
	}
	s.disk = cancelling{disk, cancel}
	if err := s.Put(ctx, "p/1-aa", make([]byte, 10*chunk)); !errors.Is(err, context.Canceled) {
		t.Errorf("want the end of the context, got %v", err)
	}
	if left, err := os.ReadDir(filepath.Join(s.path, "p")); err != nil || len(left) != 0 {
		t.Errorf("want nothing left, got %v, %v", left, err)
	}
}

// cancelling ends a context when a file is made.
type cancelling struct {
	*badDisk
	cancel context.CancelFunc
}

func (d cancelling) create(root *os.Root, name string) (file, error) {
	d.cancel()
	return d.badDisk.create(root, name)
}

// BenchmarkPut stores blobs of a size that a checkpoint of 100 assets has.
func BenchmarkPut(b *testing.B) {
	s, err := Open("file://" + b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	if err := s.Open(b.Context()); err != nil {
		b.Fatal(err)
	}
	data := make([]byte, 64<<10)
	b.SetBytes(int64(len(data)))
	n := 0
	for b.Loop() {
		n++
		if err := s.Put(b.Context(), fmt.Sprintf("p/r/%d-aa", n), data); err != nil {
			b.Fatal(err)
		}
	}
}
