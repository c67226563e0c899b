package window

import (
	"fmt"
	"testing"
	"time"

	"github.com/tailrace/tailrace/pipeline/pipelinetest"
)

func utc(t testing.TB, text string) time.Time {
	t.Helper()
	at, err := time.Parse("2006-01-02T15:04", text)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// Scenario: Moments around changes of clocks: Berlin forward on 2024-03-31 and back on 2024-10-27, Sao Paulo forward
// over midnight, Havana back to midnight, Lord Howe by half an hour, Apia without a 30th of December 2011. The windows
// are worked out by hand from the offsets in force. Guarantees: A window is what a clock on the wall shows, to the
// minute, and the next begins where it ends.
func TestCalendar(t *testing.T) {
	for _, c := range []struct{ zone, every, at, start, end string }{
		{"Europe/Berlin", "day", "2024-03-31T12:00", "2024-03-30T23:00", "2024-03-31T22:00"}, // 23 h
		{"Europe/Berlin", "day", "2024-03-30T23:00", "2024-03-30T23:00", "2024-03-31T22:00"},
		{"Europe/Berlin", "day", "2024-03-30T22:59", "2024-03-29T23:00", "2024-03-30T23:00"},
		{"Europe/Berlin", "day", "2024-10-27T12:00", "2024-10-26T22:00", "2024-10-27T23:00"}, // 25 h
		{"Europe/Berlin", "day", "2024-10-27T22:59", "2024-10-26T22:00", "2024-10-27T23:00"},
		{"Europe/Berlin", "hour", "2024-03-31T00:59", "2024-03-31T00:00", "2024-03-31T01:00"},  // 01:59 CET
		{"Europe/Berlin", "hour", "2024-03-31T01:00", "2024-03-31T01:00", "2024-03-31T02:00"},  // 03:00 CEST
		{"Europe/Berlin", "hour", "2024-10-27T00:30", "2024-10-27T00:00", "2024-10-27T01:00"},  // 02:30 CEST
		{"Europe/Berlin", "hour", "2024-10-27T01:30", "2024-10-27T01:00", "2024-10-27T02:00"},  // 02:30 CET
		{"Europe/Berlin", "shift", "2024-03-31T01:00", "2024-03-30T21:00", "2024-03-31T04:00"}, // 22:00 to 06:00, 7 h
		{"Europe/Berlin", "shift", "2024-10-27T01:00", "2024-10-26T20:00", "2024-10-27T05:00"}, // 22:00 to 06:00, 9 h
		{"Europe/Berlin", "shift", "2024-10-27T05:00", "2024-10-27T05:00", "2024-10-27T13:00"},
		{"Europe/Berlin", "week", "2024-03-31T21:59", "2024-03-24T23:00", "2024-03-31T22:00"},  // 167 h
		{"Europe/Berlin", "week", "2024-10-23T00:00", "2024-10-20T22:00", "2024-10-27T23:00"},  // 169 h
		{"Europe/Berlin", "month", "2024-10-05T00:00", "2024-09-30T22:00", "2024-10-31T23:00"}, // 745 h
		{"Europe/Berlin", "month", "2023-12-31T23:00", "2023-12-31T23:00", "2024-01-31T23:00"},
		{"America/Sao_Paulo", "day", "2018-11-04T02:59", "2018-11-03T03:00", "2018-11-04T03:00"},
		{"America/Sao_Paulo", "day", "2018-11-04T03:00", "2018-11-04T03:00", "2018-11-05T02:00"}, // 23 h, from 01:00
		{"America/Havana", "day", "2024-11-03T04:30", "2024-11-03T04:00", "2024-11-04T05:00"},    // 25 h, from the first 00:00
		{"America/Havana", "day", "2024-11-03T05:30", "2024-11-03T04:00", "2024-11-04T05:00"},
		{"Australia/Lord_Howe", "day", "2024-04-07T00:00", "2024-04-06T13:00", "2024-04-07T13:30"}, // 24.5 h
		{"Australia/Lord_Howe", "hour", "2024-04-07T13:10", "2024-04-07T13:00", "2024-04-07T13:30"},
		{"Pacific/Apia", "day", "2011-12-30T09:59", "2011-12-29T10:00", "2011-12-30T10:00"}, // the 29th, UTC-10
		{"Pacific/Apia", "day", "2011-12-30T10:00", "2011-12-30T10:00", "2011-12-31T10:00"}, // the 31st, UTC+14
		{"", "day", "1969-12-31T23:59", "1969-12-31T00:00", "1970-01-01T00:00"},
		{"", "week", "1970-01-01T00:00", "1969-12-29T00:00", "1970-01-05T00:00"}, // from a Monday
		{"Asia/Kolkata", "hour", "2024-01-01T00:15", "2023-12-31T23:30", "2024-01-01T00:30"},
	} {
		config := Config{Every: Every(c.every), Zone: c.zone}
		if c.every == everyShift {
			config.Shifts = []string{"06:00", "14:00", "22:00"}
		}
		k, err := newCalendar(&config, int64(time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		start := k.around(utc(t, c.at).UnixNano())
		end := k.end(start)
		show := func(ns int64) string { return time.Unix(0, ns).UTC().Format("2006-01-02T15:04") }
		if show(start) != c.start || show(end) != c.end || k.after(start) != end || k.around(end) != end {
			t.Errorf("%s %s at %s: want %s to %s, got %s to %s", c.zone, c.every, c.at, c.start, c.end, show(start), show(end))
		}
	}
}

// Scenario: Every length of calendar windows, in UTC and in a zone that changes its clocks.
// Guarantees: There is room for the rows of the longest window, and for no more.
func TestCalendarLayout(t *testing.T) {
	for _, c := range []struct {
		zone, every string
		rows        int64
	}{
		{"", "hour", 1}, {"", "day", 24}, {"", "week", 7 * 24}, {"", "month", 31 * 24}, {"", "shift", 10},
		{"Europe/Berlin", "hour", 1}, {"Europe/Berlin", "day", 25}, {"Europe/Berlin", "week", 7*24 + 1},
		{"Europe/Berlin", "month", 31*24 + 1}, {"Europe/Berlin", "shift", 10}, // 20:00 to 06:00, on the 27th from 00:00 on
	} {
		config := Config{Every: Every(c.every), Zone: c.zone}
		if c.every == everyShift {
			config.Shifts = []string{"00:00", "06:00", "10:00", "20:00"} // the longest from 10:00, without a change in it
		}
		k, err := newCalendar(&config, int64(time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		if rows, hop := k.layout(); rows != c.rows || hop != c.rows {
			t.Errorf("%s %s: want %d rows, got %d, hop %d", c.zone, c.every, c.rows, rows, hop)
		}
	}
}

// Scenario: A row an hour over the two Berlin days on which the clocks change.
// Guarantees: The short day has 23 rows and the long one 25, both whole; what is behind the short one is null.
func TestCalendarDays(t *testing.T) {
	c := defaults()
	c.Kind, c.Every, c.Zone = Calendar, everyDay, "Europe/Berlin"
	schema := wide(t, time.Hour, "v")
	for _, day := range []struct {
		from string
		want string
	}{
		{"2024-03-30T23:00", "23 1 \"\""},
		{"2024-10-26T22:00", "25 1 \"\""},
	} {
		from := int64(utc(t, day.from).Sub(time.Unix(0, 0)) / time.Hour)
		table := "asset ts coverage v\n"
		for i := range int64(25) {
			table += fmt.Sprintf("a %dh 1 %d\n", from+i, i)
		}
		out := run(t, c, schema, table, (from+24)*3600)
		got := pipelinetest.WriteTable(out.Rows[:1], "n", "coverage", "cut")
		if want := "n  coverage cut\n" + day.want; len(got) < len(want) {
			t.Fatalf("%s: want %q, got %q", day.from, want, got)
		}
		var n int
		var coverage float64
		var cut string
		if _, err := fmt.Sscanf(got, "n  coverage cut\n%d %g %q", &n, &coverage, &cut); err != nil {
			t.Fatalf("%q: %v", got, err)
		}
		if have := fmt.Sprintf("%d %g %q", n, coverage, cut); have != day.want {
			t.Errorf("%s: want n, coverage and cut %s, got %s", day.from, day.want, have)
		}
	}
}
