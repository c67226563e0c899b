package chdb

import "strings"

// InsertText is an INSERT in its parts.
type InsertText struct {
	Statement string // "INSERT INTO t (a, b) SETTINGS x = 1", without FORMAT
	Format    string // "Values" for VALUES; "" if the text names none
	Data      string // what follows FORMAT X or VALUES: data, or the first of it
}

// ParseInsert takes an INSERT that brings its data apart, as ClickHouse's own parser would: after FORMAT and a name,
// one white-space run up to and with the first newline is skipped, and the rest is data. It returns false for any
// other statement, and for INSERT ... SELECT and INSERT ... FROM INFILE, which have no data.
func ParseInsert(sql string) (InsertText, bool) {
	if !isInsert(sql) {
		return InsertText{}, false
	}
	l := lexer{s: sql}
	depth, format := 0, false
	for {
		tok := l.next()
		switch {
		case tok == "" || tok == ";" && depth == 0:
			return InsertText{Statement: strings.TrimSpace(sql[:l.start])}, true
		case format:
			// A name, or an identifier in quotes; anything else is not a FORMAT clause and the engine will say so.
			data := sql[l.end:]
			if trimmed := strings.TrimLeft(data, " \t\r"); strings.HasPrefix(trimmed, "\n") {
				data = trimmed[1:]
			} else {
				data = strings.TrimPrefix(trimmed, ";")
			}
			return InsertText{strings.TrimSpace(sql[:l.clause]), strings.Trim(tok, "`\""), data}, true
		case tok == "(":
			depth++
		case tok == ")":
			depth--
		case depth > 0:
		case strings.EqualFold(tok, "SELECT"), strings.EqualFold(tok, "WITH"), strings.EqualFold(tok, "INFILE"),
			strings.EqualFold(tok, "WATCH"):
			return InsertText{}, false
		case strings.EqualFold(tok, "VALUES"):
			return InsertText{strings.TrimSpace(sql[:l.start]), "Values", sql[l.end:]}, true
		case strings.EqualFold(tok, "FORMAT"):
			format, l.clause = true, l.start
		}
	}
}

// isInsert reports whether the first word is INSERT.
func isInsert(sql string) bool {
	l := lexer{s: sql}
	return strings.EqualFold(l.next(), "INSERT")
}

// lexer splits SQL into words, quoted texts and single signs, without comments and white space.
type lexer struct {
	s          string
	start, end int // of the last token
	clause     int // where ParseInsert saw FORMAT
}

// next returns the next token as it stands in the text, or "" at the end.
func (l *lexer) next() string {
	for l.end < len(l.s) {
		l.start = l.end
		rest := l.s[l.start:]
		switch c := rest[0]; {
		case c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f' || c == '\v':
			l.end++
		case strings.HasPrefix(rest, "--"), strings.HasPrefix(rest, "# "), strings.HasPrefix(rest, "#!"):
			l.end = l.after("\n", 1)
		case strings.HasPrefix(rest, "/*"):
			l.end = l.after("*/", 2)
		case c == '\'' || c == '"' || c == '`':
			l.end = l.closing(c)
			return l.s[l.start:l.end]
		case isWord(c):
			for l.end < len(l.s) && isWord(l.s[l.end]) {
				l.end++
			}
			return l.s[l.start:l.end]
		default:
			l.end++
			return rest[:1]
		}
	}
	l.start = l.end
	return ""
}

// peek is the byte behind the last token and the white space after it, or 0.
func (l *lexer) peek() byte {
	rest := strings.TrimLeft(l.s[l.end:], " \t\r\n")
	if rest == "" {
		return 0
	}
	return rest[0]
}

// after is the position behind the next mark, looked for from skip bytes on, or the end of the text.
func (l *lexer) after(mark string, skip int) int {
	i := strings.Index(l.s[l.start+skip:], mark)
	if i < 0 {
		return len(l.s)
	}
	return l.start + skip + i + len(mark)
}

// closing is the position behind the closing quote: a backslash escapes, a doubled quote stands for itself.
func (l *lexer) closing(quote byte) int {
	for i := l.start + 1; i < len(l.s); i++ {
		switch l.s[i] {
		case '\\':
			i++
		case quote:
			if i+1 < len(l.s) && l.s[i+1] == quote {
				i++
				continue
			}
			return i + 1
		}
	}
	return len(l.s)
}

func isWord(c byte) bool {
	return c == '_' || c == '$' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= 0x80
}
