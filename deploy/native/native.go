package native

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
)

// Environment variables that this package reads where Options leaves the field empty.
const (
	// EnvLibDir names a folder with the user's own copies. They are taken as they are: no hash is asked of them.
	EnvLibDir = "TAILRACE_LIB_DIR"
	// EnvCacheDir names the folder that holds Tailrace's caches; libraries lie in its folder "native".
	EnvCacheDir = "TAILRACE_CACHE_DIR"
)

// Origin says where a library was found.
type Origin string

// The places, in the order in which they are searched.
const (
	FromUser   Origin = "user"   // TAILRACE_LIB_DIR
	FromSystem Origin = "system" // an ordinary library folder
	FromCache  Origin = "cache"  // fetched and verified before
	Missing    Origin = ""       // not on this machine
)

// Options are the choices of one search. The zero value is what the program uses.
type Options struct {
	LibDir     string         // the user's folder; default $TAILRACE_LIB_DIR, else none
	CacheDir   string         // default $TAILRACE_CACHE_DIR, else the user's cache folder + "/tailrace"
	SystemDirs []string       // default: the library folders of Debian, Red Hat and /usr/local
	Progress   func(Progress) // called from the goroutine of Resolve; nil for silence
	NPM        string         // the command; default "npm", looked up in PATH
	Platform   string         // default: the running GOOS/GOARCH
	HasFeature func(Feature) bool
}

// Location is a library that was found.
type Location struct {
	Library Library
	Path    string
	Origin  Origin
}

// Resolve returns the path of the library, fetching it if it is nowhere on this machine. A hit costs a few stat
// calls: the bytes are hashed once, when they arrive (see Verify). Processes that resolve at the same time wait for
// one another. The error is ctx's, or an *Error that says what to do.
func Resolve(ctx context.Context, name Name, o Options) (string, error) {
	l, ok := library(name)
	if !ok {
		return "", Library{Name: name}.fault(Unknown, nil, "", "no such library in the manifest")
	}
	return resolve(ctx, l, o)
}

// Find searches as Resolve does and fetches nothing: Origin is Missing if the library would have to be fetched.
func Find(name Name, o Options) (Location, error) {
	l, ok := library(name)
	if !ok {
		return Location{}, Library{Name: name}.fault(Unknown, nil, "", "no such library in the manifest")
	}
	return find(l, o.withDefaults())
}

// Verify hashes the whole file that Resolve would give and compares it with the manifest. A mismatch is an *Error
// of kind Hash; for a copy of the user's own it says only that it is another build. A missing library is a
// Location with Origin Missing.
func Verify(ctx context.Context, name Name, o Options) (Location, error) {
	at, err := Find(name, o)
	if err != nil || at.Origin == Missing {
		return at, err
	}
	return at, verify(ctx, at)
}

func resolve(ctx context.Context, l Library, o Options) (string, error) {
	o = o.withDefaults()
	if err := checkCPU(l, o); err != nil {
		return "", err
	}
	at, err := find(l, o)
	if err != nil {
		return "", err
	}
	if at.Origin != Missing {
		return at.Path, nil
	}
	if o.Platform != l.Platform {
		return "", l.fault(Platform, nil, "build the library for "+o.Platform+", "+remedyOwnCopy[3:],
			"the package %s is for %s, this is %s", l.Package, l.Platform, o.Platform)
	}
	c, err := openCache(l, o.CacheDir)
	if err != nil {
		return "", err
	}
	return c.fill(ctx, o)
}

// find searches the three places.
func find(l Library, o Options) (Location, error) {
	if o.LibDir != "" {
		if err := readableDir(o.LibDir); err != nil {
			return Location{}, l.fault(LibDir, err, "name an existing folder or leave the variable unset",
				"%s=%s", EnvLibDir, o.LibDir)
		}
	}
	for _, place := range []struct {
		origin Origin
		dirs   []string
		names  []string
	}{
		{FromUser, nonEmpty(o.LibDir), l.UserFileNames},
		{FromSystem, o.SystemDirs, l.SystemFileNames},
	} {
		for _, dir := range place.dirs {
			for _, name := range place.names {
				path := filepath.Join(dir, name)
				if st, err := os.Stat(path); err == nil && st.Mode().IsRegular() {
					return Location{l, path, place.origin}, nil
				}
			}
		}
	}
	c := cacheAt(l, o.CacheDir)
	switch ok, err := c.hit(); {
	case err != nil:
		return Location{}, err
	case ok:
		return Location{l, c.path(), FromCache}, nil
	}
	return Location{Library: l}, nil
}

func (o Options) withDefaults() Options {
	if o.LibDir == "" {
		o.LibDir = os.Getenv(EnvLibDir)
	}
	if abs, err := filepath.Abs(o.LibDir); err == nil && o.LibDir != "" {
		o.LibDir = abs // dlopen takes a name without a slash for one of the system's
	}
	if o.CacheDir == "" {
		o.CacheDir = os.Getenv(EnvCacheDir)
	}
	if o.SystemDirs == nil {
		o.SystemDirs = []string{"/usr/local/lib", "/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib"}
	}
	if o.NPM == "" {
		o.NPM = "npm"
	}
	if o.Platform == "" {
		o.Platform = runtime.GOOS + "/" + runtime.GOARCH
	}
	if o.HasFeature == nil {
		o.HasFeature = hasFeature
	}
	if o.Progress == nil {
		o.Progress = func(Progress) {}
	}
	return o
}

// checkCPU refuses a library before it is loaded: afterwards the process would die of SIGILL without a word.
func checkCPU(l Library, o Options) error {
	for _, f := range l.CPU {
		if !o.HasFeature(f) {
			return l.fault(CPU, nil, "run on a machine with x86-64-v3, or use servers on another machine",
				"this processor has no %s", f)
		}
	}
	return nil
}

func readableDir(dir string) error {
	st, err := os.Stat(dir)
	if err == nil && !st.IsDir() {
		return errors.New("not a folder")
	}
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

func nonEmpty(dir string) []string {
	if dir == "" {
		return nil
	}
	return []string{dir}
}
