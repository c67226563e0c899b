package schemas

import (
	"testing"

	"pgregory.net/rapid"
)

// Scenario: sizes with every unit, and texts that are no sizes.
// Guarantees: the bytes are those of the unit; the rest is refused.
func TestBytes(t *testing.T) {
	for text, want := range map[string]Bytes{
		"0": 0, "17": 17, "64KiB": 65536, "512MiB": 512 << 20, "2GiB": 2 << 30, "1.5KiB": 1536,
		"1kB": 1000, "3MB": 3e6, "1 GB": 1e9, "9B": 9,
	} {
		var b Bytes
		if err := b.UnmarshalText([]byte(text)); err != nil || b != want {
			t.Errorf("%q: want %d, got %d, %v", text, want, b, err)
		}
	}
	for _, text := range []string{"", "KiB", "-1", "1TiB", "lots", "NaN", "Inf", "1e30"} {
		var b Bytes
		if err := b.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q: want an error, got %d", text, b)
		}
	}
}

// Scenario: any size below 2^53 bytes, written and read.
// Guarantees: it comes back the same.
func TestBytesRoundTrip(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		want := Bytes(rapid.Int64Range(0, 1<<53).Draw(r, "bytes"))
		text, err := want.MarshalText()
		if err != nil {
			r.Fatal(err)
		}
		var got Bytes
		if err := got.UnmarshalText(text); err != nil || got != want {
			r.Fatalf("%d as %s: got %d, %v", want, text, got, err)
		}
	})
}
