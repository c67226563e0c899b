package clickhouse

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/tailrace/tailrace/pipeline"
)

// Scenario: the defaults with an address; then a configuration in which everything is wrong.
// Guarantees: the first has no fault; the second has all of its faults, by the user's keys.
func TestValidate(t *testing.T) {
	good := DefaultConfig()
	good.Address = "127.0.0.1:9000"
	if faults := good.Validate(); len(faults) != 0 {
		t.Errorf("defaults: got %v", faults)
	}
	bad := Config{
		Address: "localhost", Database: "a`b", Password: "p", PasswordEnv: "P", Schema: "make", Compression: "zip", Dependents: "drop", RefusedRowsMax: -1,
		InsertRowsMax: insertRowsLimit + 1, RetryMin: time.Second, Tables: []string{"telemetry", "checkpoints", "telemetry"},
	}
	var paths []string
	for _, f := range bad.Validate() {
		paths = append(paths, f.Path)
	}
	want := []string{"address", "database", "user", "password_env", "tables[1]", "tables[2]", "schema", "compression", "dependents",
		"insert_rows_max", "inserts_per_second", "refused_rows_max", "settle", "insert_timeout", "dial_timeout", "retry_max", "retry_min"}
	if !slices.Equal(paths, want) {
		t.Errorf("want faults at %v, got %v", want, paths)
	}
}

// Scenario: a configuration with a password is printed in every way that a log or a dump may, and written as YAML and JSON.
// Guarantees: the password is in none of them; read from YAML it is the password.
func TestPasswordIsHidden(t *testing.T) {
	const canary = "canary-7f3a"
	c := DefaultConfig()
	if err := yaml.Unmarshal([]byte("address: 127.0.0.1:9000\npassword: "+canary), &c); err != nil || c.Password != canary {
		t.Fatalf("want the password read, got %q (%v)", string(c.Password), err)
	}
	asJSON, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	asYAML, err := yaml.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{
		fmt.Sprint(c), fmt.Sprintf("%v %+v %#v %s", c, c, c, c), fmt.Sprintf("%v %#v", &c, &c),
		fmt.Sprintf("%v %+v %#v %s %q %x", c.Password, c.Password, c.Password, c.Password, c.Password, c.Password),
		string(asJSON), string(asYAML),
	} {
		if strings.Contains(text, canary) || strings.Contains(text, fmt.Sprintf("%x", canary)) {
			t.Errorf("shows the password: %s", text)
		}
	}
}

// Scenario: the password comes from a file beside the pipeline file, from the environment, and from neither though asked.
// Guarantees: a trailing newline is not part of it; what is missing is a configuration error that names key and place.
func TestPasswordSources(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "secret"), []byte("from file \n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TAILRACE_TEST_PASSWORD", "from env")
	for _, test := range []struct {
		config Config
		want   string
	}{
		{Config{Password: "plain"}, "plain"},
		{Config{PasswordFile: "secret"}, "from file "},
		{Config{PasswordFile: filepath.Join(dir, "secret")}, "from file "},
		{Config{PasswordEnv: "TAILRACE_TEST_PASSWORD"}, "from env"},
	} {
		if got, err := test.config.In(dir).password(); err != nil || got != test.want {
			t.Errorf("%s: want %q, got %q (%v)", test.config, test.want, got, err)
		}
	}
	for key, c := range map[string]Config{
		"password_file": {PasswordFile: "nothing-here"},
		"password_env":  {PasswordEnv: "TAILRACE_TEST_NO_SUCH_NAME"},
	} {
		_, err := New(c, pipeline.Settings{Dir: dir})
		if !errors.Is(err, pipeline.ErrConfig) {
			t.Errorf("%s: want a configuration error, got %v", key, err)
		}
		wantError(t, err, key)
	}
}

// Scenario: the component is made from its own default configuration.
// Guarantees: the configuration validates once it has an address, and its constructor gives a sink.
func TestComponent(t *testing.T) {
	component := Component()
	config := component.NewConfig().(*Config)
	config.Address = "127.0.0.1:9000"
	if faults := config.Validate(); len(faults) > 0 {
		t.Fatal(faults)
	}
	build, err := component.New(config)
	if err != nil {
		t.Fatal(err)
	}
	sink, err := build(pipeline.Settings{Pipeline: "test"})
	if err != nil {
		t.Fatal(err)
	}
	if err := sink.Close(); err != nil {
		t.Error(err)
	}
}
