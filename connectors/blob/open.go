// Package blob keeps the blobs of pipeline/state: in a folder, or in memory.
package blob

import (
	"fmt"
	"net/url"
	"path/filepath"

	"github.com/tailrace/tailrace/pipeline"
	"github.com/tailrace/tailrace/pipeline/state"
)

// Open returns the store that a URL names: file:///path for a folder, which every process that shares the pipeline must see, or
// mem:// for one that is gone with the process. It touches nothing yet. The error wraps pipeline.ErrConfig.
func Open(text string) (state.Store, error) {
	u, err := url.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("%w: state.store: want a URL such as file:///var/lib/tailrace, got %q: %w", pipeline.ErrConfig, text, err)
	}
	switch u.Scheme {
	case "file":
		if u.Host != "" && u.Host != "localhost" || !filepath.IsAbs(filepath.FromSlash(u.Path)) {
			return nil, fmt.Errorf("%w: state.store: want file:// and an absolute path, such as file:///var/lib/tailrace, got %q",
				pipeline.ErrConfig, text)
		}
		return newFolder(filepath.FromSlash(u.Path)), nil
	case "mem":
		return newMemory(), nil
	}
	return nil, fmt.Errorf("%w: state.store: want a URL that begins with file:// or mem://, got %q", pipeline.ErrConfig, text)
}
