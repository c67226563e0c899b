package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tailrace/tailrace/deploy/native"
	"github.com/tailrace/tailrace/pipeline"
)

func files(t *testing.T, pattern string) map[string]string {
	t.Helper()
	paths, err := filepath.Glob(pattern)
	if err != nil || len(paths) == 0 {
		t.Fatalf("%s: no files (%v)", pattern, err)
	}
	texts := map[string]string{}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		texts[path] = string(text)
	}
	return texts
}

// Scenario: every example pipeline of deploy, checked where it stands in the repository.
// Guarantees: none has a fault.
func TestExamplePipelines(t *testing.T) {
	for path := range files(t, "deploy/examples/*.yaml") {
		if p, code := ended(t, "check", path); code != 0 {
			t.Errorf("%s: exit code %d\n%s", path, code, p.out.String())
		}
	}
}

// Scenario: the files of deploy for Compose, Prometheus and Grafana.
// Guarantees: each parses, and every metric of ours that they name is one that the program has.
func TestDeployFiles(t *testing.T) {
	known := map[string]bool{}
	descs := make(chan *prometheus.Desc)
	go func() {
		defer close(descs)
		pipeline.New(pipeline.Plan{}, pipeline.Env{}).Metrics().Registry.Describe(descs)
	}()
	name := regexp.MustCompile(`\btailrace_[a-z_]+`)
	for d := range descs {
		if n := name.FindString(d.String()); n != "" {
			known[n] = true
		}
	}
	named := 0
	for _, pattern := range []string{"deploy/*.yaml", "deploy/prometheus/*.yml", "deploy/grafana/*.yaml", "deploy/grafana/*.json"} {
		for path, text := range files(t, pattern) {
			var parsed any
			var err error
			if strings.HasSuffix(path, ".json") {
				err = json.Unmarshal([]byte(text), &parsed)
			} else {
				err = yaml.Unmarshal([]byte(text), &parsed)
			}
			if err != nil {
				t.Errorf("%s: %v", path, err)
			}
			for _, metric := range name.FindAllString(text, -1) {
				named++
				of := regexp.MustCompile(`_(bucket|count|sum)$`).ReplaceAllString(metric, "")
				if !known[metric] && !known[of] {
					t.Errorf("%s: the program has no metric %s", path, metric)
				}
			}
		}
	}
	if named < 8 {
		t.Errorf("%d metrics named: want those of six alerts and three panels", named)
	}
}

// Scenario: the image's file beside the manifest of native libraries.
// Guarantees: the image holds the ONNX Runtime that the manifest names, by its hash, and nothing of libchdb.
func TestImageLibrary(t *testing.T) {
	image := files(t, "deploy/Dockerfile")["deploy/Dockerfile"]
	for _, l := range native.Manifest() {
		for _, word := range []string{l.Package + "@" + l.PackageVersion, l.SHA512, l.Member} {
			if want := l.Name == native.ONNXRuntime; strings.Contains(image, word) != want {
				t.Errorf("%s: %q in the image's file: want %v", l.Name, word, want)
			}
		}
	}
}

// Scenario: the dashboard's SQL, its macros and variables replaced, on the tables of a plant that has been made.
// Guarantees: every table, column and function that it names exists.
func TestDashboardSQL(t *testing.T) {
	p := newPlant(t, embeddedServers(t))
	if made, code := ended(t, "schema", "apply", p.file); code != 0 {
		t.Fatalf("schema apply: exit code %d\n%s", code, made.err.String())
	}
	var board struct {
		Panels []struct {
			Targets []struct{ RawSQL string }
		}
		Templating struct {
			List []struct{ Query string }
		}
	}
	if err := json.Unmarshal([]byte(files(t, "deploy/grafana/tailrace.json")["deploy/grafana/tailrace.json"]), &board); err != nil {
		t.Fatal(err)
	}
	var queries []string
	for _, panel := range board.Panels {
		for _, target := range panel.Targets {
			if target.RawSQL != "" {
				queries = append(queries, target.RawSQL)
			}
		}
	}
	for _, variable := range board.Templating.List {
		queries = append(queries, variable.Query)
	}
	if len(queries) < 7 {
		t.Errorf("%d queries: want those of five panels and two variables", len(queries))
	}
	filter := regexp.MustCompile(`\$__timeFilter\((\w+)\)`)
	interval := regexp.MustCompile(`\$__timeInterval\((\w+)\)`)
	for _, sql := range queries {
		sql = filter.ReplaceAllString(sql, "$1 >= toDateTime(0)")
		sql = interval.ReplaceAllString(sql, "toStartOfInterval(toDateTime($1), INTERVAL 10 second)")
		if n := p.query(t, "SELECT count() FROM ("+sql+")"); n != 0 {
			t.Errorf("%s: %d rows from empty tables", sql, n)
		}
	}
}
