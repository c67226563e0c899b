package blob

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/tailrace/tailrace/pipeline/state"
)

const (
	// marker is a file that says that a folder is a store. Without it an empty mount point would look like a store that
	// has lost its blobs.
	marker = ".tailrace-state"
	// unfinished begins the name of a file that is being written.
	unfinished = ".writing-"
	// stale is how old such a file is when it is taken for left over from a crash: no blob takes so long to write.
	stale = time.Hour
	// chunk is how much is written between two looks at the context.
	chunk = 1 << 20
	// tries is how often a Put makes folders anew that a Delete elsewhere has just removed since they were empty.
	tries = 5
)

// folder is a store in a folder of a file system. It opens the folder anew for each call, so that it goes on when one
// that was away, on another machine for example, is back. Names can't leave it: links that point outside are refused.
//
// A blob is written to a file of its own in the same folder, synced, linked to its name and its folder synced. So a
// name is there with all its bytes or not at all, and two writers of one name don't meet.
type folder struct {
	path string
	disk disk
}

var _ state.Store = (*folder)(nil)

// fail says where and what was done when err came.
func (f *folder) fail(doing string, err error) error {
	return fmt.Errorf("state store %s: %s: %w", f.path, doing, err)
}

// open opens the folder and checks that it is the store.
func (f *folder) open(ctx context.Context, doing string) (*os.Root, error) {
	if err := ctx.Err(); err != nil {
		return nil, f.fail(doing, err)
	}
	root, err := os.OpenRoot(f.path)
	if err != nil {
		return nil, f.fail(doing, err)
	}
	if _, err := root.Lstat(marker); err != nil {
		err = fmt.Errorf("want the file %s in it: is it mounted? (%w)", marker, err)
		return nil, errors.Join(f.fail(doing, err), root.Close())
	}
	return root, nil
}

// Open makes the folder if there is none, clears away what crashes have left, and tries to write, read and remove a
// file.
func (f *folder) Open(ctx context.Context) error {
	const doing = "open"
	if err := ctx.Err(); err != nil {
		return f.fail(doing, err)
	}
	if err := f.make(f.path); err != nil {
		return f.fail(doing, err)
	}
	root, err := os.OpenRoot(f.path)
	if err != nil {
		return f.fail(doing, err)
	}
	defer root.Close()
	if err := f.sweep(root); err != nil {
		return f.fail(doing, err)
	}
	probe, err := f.write(ctx, root, ".", []byte(marker))
	if err != nil {
		return f.fail(doing, err)
	}
	got, err := root.ReadFile(probe)
	if err == nil && string(got) != marker {
		err = fmt.Errorf("read %s: want the bytes that were written, got %d others", probe, len(got))
	}
	if err == nil {
		if err = f.name(root, probe, marker); errors.Is(err, fs.ErrExist) {
			err = nil
		}
	}
	if err = errors.Join(err, gone(root.Remove(probe))); err != nil {
		return f.fail(doing, err)
	}
	if err := f.disk.syncFolder(root, "."); err != nil {
		return f.fail(doing, err)
	}
	return nil
}

// make makes a folder and those above it that there are not, and syncs the one that each lies in: blobs are no safer
// than the folder's own name.
func (f *folder) make(dir string) error {
	if _, err := os.Stat(dir); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	above := filepath.Dir(dir)
	if err := f.make(above); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	root, err := os.OpenRoot(above)
	if err != nil {
		return err
	}
	return errors.Join(f.disk.syncFolder(root, "."), root.Close())
}

// sweep removes files whose writers have crashed.
func (f *folder) sweep(root *os.Root) error {
	return walk(root, ".", func(name string, info fs.FileInfo) error {
		if !strings.HasPrefix(path.Base(name), unfinished) || time.Since(info.ModTime()) < stale {
			return nil
		}
		return gone(root.Remove(name))
	})
}

// gone takes an error that says that there is no such file for none.
func gone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Put stores a blob.
func (f *folder) Put(ctx context.Context, name string, data []byte) error {
	if err := checkName(name); err != nil {
		return err
	}
	doing := "put " + name
	root, err := f.open(ctx, doing)
	if err != nil {
		return err
	}
	defer root.Close()
	for try := 1; ; try++ {
		err := f.put(ctx, root, name, data)
		if err == nil {
			return nil
		}
		if try == tries || !errors.Is(err, fs.ErrNotExist) {
			return f.fail(doing, err)
		}
	}
}

func (f *folder) put(ctx context.Context, root *os.Root, name string, data []byte) error {
	if err := root.MkdirAll(path.Dir(name), 0o700); err != nil {
		return err
	}
	temporary, err := f.write(ctx, root, path.Dir(name), data)
	if err != nil {
		return err
	}
	err = f.name(root, temporary, name)
	if errors.Is(err, fs.ErrExist) {
		err = same(root, name, data)
	}
	if err = errors.Join(err, gone(root.Remove(temporary))); err != nil {
		return err
	}
	// The folders as well: another process may have made them and not synced them yet.
	for dir := path.Dir(name); ; dir = path.Dir(dir) {
		if err := f.disk.syncFolder(root, dir); err != nil {
			return err
		}
		if dir == "." {
			return nil
		}
	}
}

// write writes data to a new file in dir, syncs it and returns its name. After an error there is no file.
func (f *folder) write(ctx context.Context, root *os.Root, dir string, data []byte) (name string, err error) {
	name = path.Join(dir, unfinished+rand.Text())
	file, err := f.disk.create(root, name)
	if err != nil {
		return "", err
	}
	for len(data) > 0 && err == nil {
		if err = ctx.Err(); err == nil {
			_, err = file.Write(data[:min(chunk, len(data))])
			data = data[min(chunk, len(data)):]
		}
	}
	if err == nil {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err != nil {
		return "", errors.Join(err, gone(root.Remove(name)))
	}
	return name, nil
}

// name gives a file a second name, which must not exist yet. Where files can't have two it is moved: two writers of a
// name have the same bytes, so that nothing is lost if one overwrites the other.
func (f *folder) name(root *os.Root, from, to string) error {
	err := f.disk.link(root, from, to)
	if !errors.Is(err, errors.ErrUnsupported) && !errors.Is(err, fs.ErrPermission) {
		return err
	}
	if _, there := root.Lstat(to); there == nil {
		return &fs.PathError{Op: "link", Path: to, Err: fs.ErrExist}
	}
	return root.Rename(from, to)
}

// same checks that a blob that is there already is the one that was to be put.
func same(root *os.Root, name string, data []byte) error {
	old, err := read(root, name)
	if err == nil && !bytes.Equal(old, data) {
		err = otherBytes(len(old), len(data))
	}
	return err
}

// read reads a file that is one, not a link or a device.
func read(root *os.Root, name string) ([]byte, error) {
	info, err := root.Lstat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("want a file, got %s", info.Mode())
	}
	return root.ReadFile(name)
}

// Get reads a blob.
func (f *folder) Get(ctx context.Context, name string) ([]byte, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	doing := "get " + name
	root, err := f.open(ctx, doing)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	data, err := read(root, name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, f.fail(doing, state.ErrNotFound)
	case err != nil:
		return nil, f.fail(doing, err)
	}
	return data, nil
}

// List reads the folders that names with that prefix lie in.
func (f *folder) List(ctx context.Context, prefix string) ([]state.Info, error) {
	doing, dir := fmt.Sprintf("list %.300q", prefix), "."
	if slash := strings.LastIndexByte(prefix, '/'); slash >= 0 {
		dir = prefix[:slash]
		if err := checkName(dir); err != nil {
			return nil, err
		}
	}
	root, err := f.open(ctx, doing)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	var list []state.Info
	err = walk(root, dir, func(name string, info fs.FileInfo) error {
		if strings.HasPrefix(name, prefix) && !strings.HasPrefix(path.Base(name), ".") {
			list = append(list, state.Info{Name: name, Size: info.Size(), Modified: info.ModTime()})
		}
		return ctx.Err()
	})
	if err != nil {
		return nil, f.fail(doing, err)
	}
	sortByName(list)
	return list, nil
}

// walk calls f for each file in and below dir. What goes while it looks is passed over, and links are not followed.
func walk(root *os.Root, dir string, f func(name string, info fs.FileInfo) error) error {
	return fs.WalkDir(root.FS(), dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return gone(err)
		}
		if !d.Type().IsRegular() {
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return gone(err)
		}
		return f(name, info)
	})
}

// Delete removes a blob, and its folders if they are empty then. It is not synced: a blob that is there again after a
// loss of power does no harm.
func (f *folder) Delete(ctx context.Context, name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	doing := "delete " + name
	root, err := f.open(ctx, doing)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := gone(root.Remove(name)); err != nil {
		return f.fail(doing, err)
	}
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		if root.Remove(dir) != nil {
			break // it has other blobs
		}
	}
	return nil
}

// Close does nothing: no file stays open between calls.
func (f *folder) Close() error { return nil }
