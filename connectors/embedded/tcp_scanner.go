package embedded

import "strings"

type tokenKind uint8

const (
	wordToken   tokenKind = iota // a bare word or a number
	stringToken                  // 'x' or $tag$x$tag$
	quotedToken                  // "x" or `x`
	punctToken                   // one byte of anything else
	endToken
	badToken // a quote or a comment without its end
)

type token struct {
	kind       tokenKind
	text       string
	start, end int
}

func (t token) is(punct string) bool { return t.kind == punctToken && t.text == punct }

// upper is a bare word in capitals, and "" for every other token.
func (t token) upper() string {
	if t.kind != wordToken {
		return ""
	}
	return strings.ToUpper(t.text)
}

// name is an identifier without its quotes.
func (t token) name() string {
	if t.kind == quotedToken {
		return unquote(t.text)
	}
	return t.text
}

// value is a literal without its quotes.
func (t token) value() string {
	if t.kind == stringToken && t.text[0] == '\'' {
		return unquote(t.text)
	}
	return t.text
}

// unquote takes the quotes and the escapes off a quoted token.
func unquote(s string) string {
	quote := s[0]
	var b strings.Builder
	for i := 1; i < len(s)-1; i++ {
		if s[i] == quote { // doubled
			i++
		} else if s[i] == '\\' && i+1 < len(s)-1 {
			i++
			if at := strings.IndexByte("nrt0", s[i]); at >= 0 {
				b.WriteByte("\n\r\t\x00"[at])
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// scanner cuts SQL into tokens as ClickHouse's Lexer.cpp does, as far as quotes, comments and parentheses go.
type scanner struct {
	text string
	at   int
}

func (s *scanner) next() token {
	if !s.skipBlank() {
		return token{kind: badToken, start: s.at, end: len(s.text)}
	}
	start := s.at
	if start >= len(s.text) {
		return token{kind: endToken, start: len(s.text), end: len(s.text)}
	}
	c := s.text[start]
	kind, end := punctToken, start+1
	switch {
	case c == '\'':
		kind, end = stringToken, endOfQuote(s.text, start)
	case c == '"' || c == '`':
		kind, end = quotedToken, endOfQuote(s.text, start)
	case c == '$':
		if e := endOfHeredoc(s.text, start); e > 0 {
			kind, end = stringToken, e
		}
	case isWordByte(c):
		kind = wordToken
		for end < len(s.text) && (isWordByte(s.text[end]) || isNumberDot(s.text, start, end)) {
			end++
		}
	}
	if end < 0 {
		s.at = len(s.text)
		return token{kind: badToken, start: start, end: len(s.text)}
	}
	s.at = end
	return token{kind: kind, text: s.text[start:end], start: start, end: end}
}

// skipBlank skips white space and comments; it is false inside a comment without its end.
func (s *scanner) skipBlank() bool {
	for s.at < len(s.text) {
		rest := s.text[s.at:]
		switch {
		case strings.ContainsRune(" \t\r\n\f\v", rune(rest[0])):
			s.at++
		case strings.HasPrefix(rest, "--"), strings.HasPrefix(rest, "#!"), strings.HasPrefix(rest, "# "):
			line := strings.IndexByte(rest, '\n')
			if line < 0 {
				line = len(rest)
			}
			s.at += line
		case strings.HasPrefix(rest, "/*"):
			end := strings.Index(rest, "*/")
			if end < 0 {
				s.at = len(s.text)
				return false
			}
			s.at += end + 2
		default:
			return true
		}
	}
	return true
}

// group returns what is inside the parenthesis open, and the place after the one that closes it.
func (s *scanner) group(open token) (inner string, end int) {
	for depth := 1; ; {
		t := s.next()
		switch {
		case t.is("("):
			depth++
		case t.is(")"):
			depth--
		case t.kind >= endToken:
			return s.text[open.end:], len(s.text)
		}
		if depth == 0 {
			return s.text[open.end:t.start], t.end
		}
	}
}

func isWordByte(c byte) bool {
	return c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= 0x80
}

// isNumberDot is true for the dot inside a number, which a word would end at.
func isNumberDot(s string, start, at int) bool {
	return s[at] == '.' && s[start] >= '0' && s[start] <= '9'
}

// endOfQuote is the place after the quote that ends the one at start, or -1. A doubled quote is one inside.
func endOfQuote(s string, start int) int {
	for i := start + 1; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case s[start]:
			if i+1 == len(s) || s[i+1] != s[start] {
				return i + 1
			}
			i++
		}
	}
	return -1
}

// endOfHeredoc is the place after $tag$...$tag$, or -1 if there is none.
func endOfHeredoc(s string, start int) int {
	n := strings.IndexByte(s[start+1:], '$')
	if n < 0 {
		return -1
	}
	tag := s[start : start+n+2]
	for i := 1; i < len(tag)-1; i++ {
		if !isWordByte(tag[i]) {
			return -1
		}
	}
	end := strings.Index(s[start+len(tag):], tag)
	if end < 0 {
		return -1
	}
	return start + len(tag) + end + len(tag)
}
