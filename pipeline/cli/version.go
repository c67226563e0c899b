package cli

import (
	"context"
	"errors"
	"fmt"
	"runtime"

	"github.com/spf13/cobra"
	"github.com/tailrace/tailrace/deploy/native"
)

func (e *env) versionCommand() *cobra.Command {
	var verify bool
	c := &cobra.Command{
		Use:   "version",
		Short: "Print the versions of the program and of its native libraries",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return e.version(cmd.Context(), verify) },
	}
	c.Flags().BoolVar(&verify, "verify", false, "hash the native libraries and compare them with the manifest")
	return c
}

// versions is the JSON of version.
type versions struct {
	Tailrace  string        `json:"tailrace"`
	Go        string        `json:"go"`
	Platform  string        `json:"platform"`
	Libraries []libraryJSON `json:"libraries"`
}

type libraryJSON struct {
	Name     string `json:"name"`
	Version  string `json:"version"`
	Licence  string `json:"licence"`
	Path     string `json:"path,omitempty"`
	Origin   string `json:"origin"`
	Verified *bool  `json:"verified,omitempty"`
	Fault    string `json:"fault,omitempty"`
}

func (e *env) version(ctx context.Context, verify bool) error {
	v := versions{Tailrace: e.Version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	faults := false
	for _, l := range native.Manifest() {
		entry := libraryJSON{Name: string(l.Name), Version: l.Version, Licence: l.Licence}
		look := func() (native.Location, error) { return native.Find(l.Name, native.Options{}) }
		if verify {
			look = func() (native.Location, error) { return native.Verify(ctx, l.Name, native.Options{}) }
		}
		found, err := look()
		entry.Path, entry.Origin = found.Path, string(found.Origin)
		if found.Origin == native.Missing {
			entry.Origin = "not fetched yet"
		} else if verify {
			ok := err == nil
			entry.Verified = &ok
		}
		if err != nil {
			entry.Fault, faults = err.Error(), true
		}
		v.Libraries = append(v.Libraries, entry)
	}
	err := e.printVersions(v)
	if faults {
		return errors.Join(err, errFound)
	}
	return err
}

func (e *env) printVersions(v versions) error {
	if e.json {
		return e.print(v)
	}
	fmt.Fprintf(e.Out, "tailrace %s (%s, %s)\n", v.Tailrace, v.Go, v.Platform)
	for _, l := range v.Libraries {
		fmt.Fprintf(e.Out, "%s %s (%s): %s %s", l.Name, l.Version, l.Licence, l.Origin, l.Path)
		if l.Verified != nil && *l.Verified {
			fmt.Fprint(e.Out, ", hash verified")
		}
		if l.Fault != "" {
			fmt.Fprintf(e.Out, "\n  %s", l.Fault)
		}
		fmt.Fprintln(e.Out)
	}
	return nil
}
