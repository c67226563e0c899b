package schemas

import (
	"fmt"
	"strconv"
	"strings"
)

// Bytes is a size written with a unit: "64KiB", "512MiB", "2GiB", or a plain number of bytes.
type Bytes int64

var byteUnits = []struct {
	suffix string
	factor float64
}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"kB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"B", 1}}

// UnmarshalText reads a size.
func (b *Bytes) UnmarshalText(text []byte) error {
	s, factor := strings.TrimSpace(string(text)), 1.0
	for _, u := range byteUnits {
		if rest, ok := strings.CutSuffix(s, u.suffix); ok {
			s, factor = strings.TrimSpace(rest), u.factor
			break
		}
	}
	n, err := strconv.ParseFloat(s, 64)
	if err != nil || !(n >= 0 && n*factor < 1<<62) {
		return fmt.Errorf("want a size such as 512MiB, got %q", text)
	}
	*b = Bytes(n * factor)
	return nil
}

// MarshalText writes the size in the largest unit that keeps it whole.
func (b Bytes) MarshalText() ([]byte, error) {
	for _, u := range []struct {
		suffix string
		factor Bytes
	}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}} {
		if b != 0 && b%u.factor == 0 {
			return fmt.Appendf(nil, "%d%s", b/u.factor, u.suffix), nil
		}
	}
	return fmt.Appendf(nil, "%d", int64(b)), nil
}
