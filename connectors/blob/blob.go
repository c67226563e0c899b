// Package blob opens the stores that checkpoints lie in: a folder, or memory.
//
//	file:///var/lib/tailrace   a folder with an absolute path; processes that share a topic must share it
//	mem://                     memory, for tests and for pipelines that may forget
package blob

import (
	"fmt"
	"net/url"
	"path/filepath"
	"strings"

	"github.com/tailrace/tailrace/pipeline"
	"github.com/tailrace/tailrace/pipeline/state"
)

// Open returns the store that a URL names. It touches nothing: that the store can be used is found out by its own
// Open. An error wraps pipeline.ErrConfig.
func Open(text string) (state.Store, error) {
	u, err := url.Parse(text)
	if err != nil {
		// The parser's own message repeats the text, which may hold a password.
		return nil, fmt.Errorf("%w: state.store: want file:///absolute/folder or mem://, got what is not a URL",
			pipeline.ErrConfig)
	}
	refuse := func(format string, args ...any) (state.Store, error) {
		return nil, fmt.Errorf("%w: state.store: %s: %s", pipeline.ErrConfig, plain(u), fmt.Sprintf(format, args...))
	}
	switch u.Scheme {
	case "file", "mem":
	case "":
		return refuse("want file:///absolute/folder or mem://, got no scheme")
	default:
		return refuse("want file:///absolute/folder or mem://, got the scheme %q, which this release does not have", u.Scheme)
	}
	switch {
	case u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return refuse("want no user, query or fragment")
	case u.Scheme == "mem" && (u.Host != "" || u.Path != "" || u.Opaque != ""):
		return refuse("want nothing after mem://")
	case u.Scheme == "mem":
		return newMemory(), nil
	case u.Host != "" && u.Host != "localhost":
		return refuse("want three slashes before an absolute path, got %q for a host", u.Host)
	case !strings.HasPrefix(u.Path, "/") || strings.ContainsRune(u.Path, 0):
		return refuse("want an absolute path")
	}
	return &folder{path: filepath.Clean(filepath.FromSlash(u.Path)), disk: osDisk{}}, nil
}

// plain is a URL without what may be secret.
func plain(u *url.URL) string {
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path, Opaque: u.Opaque}).String()
}

// maxName and maxPart bound names: what file systems take.
const (
	maxName = 1024
	maxPart = 255
)

// checkName says whether a name can be a blob's: parts with slashes between, none of which is empty or begins with a
// dot, since files of our own do.
func checkName(name string) error {
	if len(name) > maxName {
		return fmt.Errorf("name of a blob: want at most %d bytes, got %d: %.100q", maxName, len(name), name)
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == "" || part[0] == '.' || len(part) > maxPart || strings.ContainsAny(part, "\x00\\") {
			return fmt.Errorf("name of a blob: want parts of 1 to %d bytes that don't begin with a dot, with slashes "+
				"between, got %.300q", maxPart, name)
		}
	}
	return nil
}
