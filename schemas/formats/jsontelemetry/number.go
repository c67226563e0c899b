package jsontelemetry

import (
	"encoding/binary"
	"math"
	"math/bits"
	"strconv"
	"unsafe"
)

// decimal is a JSON number taken apart: mantissa * 10^exponent.
type decimal struct {
	mantissa uint64 // the first 19 significant digits
	exponent int
	negative bool
	whole    bool // written without fraction and exponent
	exact    bool // mantissa has all the digits
}

const (
	maxDigits   = 19   // significant digits that always fit uint64
	maxExponent = 5000 // beyond it every number is 0 or infinite, also with the digits of the largest message left out
)

// parseDecimal reads the JSON number (RFC 8259, section 6) at b[i:] into n and returns the index after it, or ^k where
// k is the index of the byte that does not fit.
func parseDecimal(b []byte, i int, n *decimal) int {
	n.negative = b[i] == '-'
	if n.negative {
		i++
	}
	first := i
	var mantissa uint64
	if i < len(b) && b[i] == '0' {
		i++
	} else if i = digits(b, i, &mantissa); i == first {
		return ^i
	}
	significant := i - first
	exponent := 0
	n.whole = true
	if i < len(b) && b[i] == '.' {
		n.whole = false
		dot := i
		if i = digits(b, i+1, &mantissa); i == dot+1 {
			return ^i
		}
		exponent = dot + 1 - i
		significant -= exponent
	}
	n.exact = significant <= maxDigits
	if !n.exact {
		mantissa, exponent, n.exact = shorten(b[first:i])
	}
	if i < len(b) && b[i]|0x20 == 'e' {
		n.whole = false
		i++
		negative := i < len(b) && b[i] == '-'
		if negative || i < len(b) && b[i] == '+' {
			i++
		}
		start, e := i, 0
		for ; i < len(b) && b[i]-'0' < 10; i++ {
			e = min(10*e+int(b[i]-'0'), 1<<40)
		}
		if i == start {
			return ^i
		}
		if negative {
			e = -e
		}
		exponent += e
	}
	n.mantissa, n.exponent = mantissa, exponent
	return i
}

// digits reads decimal digits into mantissa, wrapping around, and returns the index after them.
func digits(b []byte, i int, mantissa *uint64) int {
	m := *mantissa
	for i+8 <= len(b) {
		// Eight digits at once (Lemire, "Number parsing at a gigabyte per second", 2021, section 4).
		v := binary.LittleEndian.Uint64(b[i:])
		if ((v+0x4646464646464646)|(v-0x3030303030303030))&0x8080808080808080 != 0 {
			break
		}
		v -= 0x3030303030303030
		v = v*10 + v>>8
		v = (v&0x000000FF000000FF*0x000F424000000064 + v>>16&0x000000FF000000FF*0x0000271000000001) >> 32
		m = m*100_000_000 + v
		i += 8
	}
	for ; i < len(b) && b[i]-'0' < 10; i++ {
		m = m*10 + uint64(b[i]-'0')
	}
	*mantissa = m
	return i
}

// shorten reads digits with at most one point, of which there are more than maxDigits, leading zeros counted.
func shorten(text []byte) (mantissa uint64, exponent int, exact bool) {
	exact = true
	taken, fraction := 0, false
	for _, c := range text {
		if c == '.' {
			fraction = true
			continue
		}
		switch {
		case taken == maxDigits:
			exact = exact && c == '0'
			if !fraction {
				exponent++
			}
			continue
		case c != '0' || taken > 0:
			taken++
			mantissa = mantissa*10 + uint64(c-'0')
		}
		if fraction {
			exponent--
		}
	}
	return mantissa, exponent, exact
}

// powers are the powers of ten that float64 holds exactly.
var powers = [...]float64{
	1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11,
	1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22,
}

// float returns the float64 nearest to n, whose text is given. It is infinite if n is too large.
func (n *decimal) float(text []byte) float64 {
	if n.exact && n.mantissa < 1<<53 && -len(powers) < n.exponent && n.exponent < len(powers) {
		// Both are exact, so that the one rounding gives the nearest (Clinger, "How to read floating point numbers
		// accurately", 1990).
		f := float64(n.mantissa)
		if n.exponent < 0 {
			f /= powers[-n.exponent]
		} else {
			f *= powers[n.exponent]
		}
		if n.negative {
			f = -f
		}
		return f
	}
	f, _ := strconv.ParseFloat(unsafe.String(unsafe.SliceData(text), len(text)), 64) // on ErrRange f is infinite
	return f
}

// magnitude returns |n| if n is written as a whole number and fits.
func (n *decimal) magnitude(text []byte) (uint64, bool) {
	if !n.whole {
		return 0, false
	}
	if n.exact && n.exponent == 0 {
		return n.mantissa, true
	}
	if n.negative {
		text = text[1:]
	}
	u, err := strconv.ParseUint(unsafe.String(unsafe.SliceData(text), len(text)), 10, 64)
	return u, err == nil
}

// scaled returns n * 10^by toward zero, and whether that fits.
func (n *decimal) scaled(by int) (int64, bool) {
	m, e := n.mantissa, n.exponent+by
	for ; e > 0 && m != 0; e-- {
		over, low := bits.Mul64(m, 10)
		if over != 0 {
			return 0, false
		}
		m = low
	}
	for ; e < 0 && m != 0; e++ {
		m /= 10
	}
	if n.negative {
		return -int64(m), m <= 1<<63
	}
	return int64(m), m <= math.MaxInt64
}
