package embedded

import (
	"fmt"
	"strings"
)

// statementKind is what the native face must do with a statement.
type statementKind uint8

const (
	otherStatement  statementKind = iota // run it; it has no result that a client waits for
	selectStatement                      // stream its result
	tableStatement                       // a small result: SHOW, DESCRIBE, EXISTS, EXPLAIN
	blocksInsert                         // an INSERT whose rows come as blocks
	inlineInsert                         // an INSERT with its rows in the text
	useStatement                         // USE name
	setStatement                         // SET name = value, ...
)

// statement is a query text, taken apart as far as the face needs.
type statement struct {
	kind statementKind
	// sql is what the engine gets. A result's FORMAT clause is gone: over the native protocol the client formats. An
	// INSERT ends before VALUES or FORMAT.
	sql string

	table   string // of an INSERT: as written, with FUNCTION if it says so
	columns string // of an INSERT: what stands between the parentheses, or ""
	format  string // of an inline INSERT: the format of its rows
	data    string // of an inline INSERT: the rows

	database string            // of USE
	settings map[string]string // of SET
}

// resultWords start the statements with a small result and without side effects.
const resultWords = " SHOW DESCRIBE DESC EXISTS EXPLAIN "

// parseStatement takes a query text apart. It looks at words, not at grammar: the engine reports what is wrong with it.
func parseStatement(sql string) (statement, error) {
	s := scanner{text: sql}
	first := s.next()
	for first.is("(") {
		first = s.next()
	}
	word := first.upper()
	switch {
	case word == "INSERT":
		return parseInsert(sql, &s, first)
	case word == "USE":
		return statement{kind: useStatement, sql: sql, database: s.next().name()}, nil
	case word == "SET":
		return parseSet(sql, &s)
	case word == "SELECT" || word == "FROM", word == "WITH" && !hasWord(sql, "INSERT"):
		return statement{kind: selectStatement, sql: withoutFormat(sql)}, nil
	case word != "" && strings.Contains(resultWords, " "+word+" "):
		return statement{kind: tableStatement, sql: withoutFormat(sql)}, nil
	}
	return statement{kind: otherStatement, sql: sql}, nil
}

// parseInsert reads: INSERT INTO [TABLE] [FUNCTION] name[(...)] [(columns)] [SETTINGS ...] then SELECT, VALUES or FORMAT.
func parseInsert(sql string, s *scanner, first token) (statement, error) {
	t := s.next()
	if t.upper() != "INTO" {
		return statement{kind: otherStatement, sql: sql}, nil
	}
	t = s.next()
	if t.upper() == "TABLE" {
		t = s.next()
	}
	st := statement{kind: blocksInsert}
	start := t.start
	function := t.upper() == "FUNCTION"
	if function {
		t = s.next()
	}
	end := t.end
	for t = s.next(); t.is("."); t = s.next() {
		end = s.next().end
	}
	if function && t.is("(") {
		_, end = s.group(t)
		t = s.next()
	}
	st.table = sql[start:min(end, len(sql))]
	if t.is("(") {
		inner, _ := s.group(t)
		// A parenthesis may also hold a SELECT: INSERT INTO t (SELECT 1).
		if w := (&scanner{text: inner}).next().upper(); w == "SELECT" || w == "WITH" {
			return statement{kind: otherStatement, sql: sql}, nil
		}
		st.columns = strings.TrimSpace(inner)
		t = s.next()
	}
	for depth := 0; ; t = s.next() {
		switch w := t.upper(); {
		case t.kind == badToken:
			return st, fmt.Errorf("INSERT: a quote or comment without its end at byte %d", t.start)
		case t.kind == endToken || t.is(";") && depth <= 0:
			return st.finish(sql[first.start:t.start], "", ""), nil
		case t.is("("):
			depth++
		case t.is(")"):
			depth--
		case depth > 0:
		case w == "SELECT" || w == "WITH" || w == "FROM" || w == "WATCH":
			return statement{kind: otherStatement, sql: sql}, nil
		case w == "VALUES":
			return st.finish(sql[first.start:t.start], "Values", sql[t.end:]), nil
		case w == "FORMAT":
			format := s.next()
			return st.finish(sql[first.start:t.start], format.name(), sql[format.end:]), nil
		}
	}
}

func (st statement) finish(head, format, data string) statement {
	st.sql = strings.TrimSpace(head)
	if trimmed := strings.Trim(data, " \t\r\n;"); trimmed != "" {
		st.kind, st.format, st.data = inlineInsert, format, strings.TrimLeft(data, " \t\r\n")
	}
	return st
}

// parseSet reads SET a = 1, b = 'x'. Other forms (SET ROLE, SET TRANSACTION) belong to sessions that the engine has not.
func parseSet(sql string, s *scanner) (statement, error) {
	st := statement{kind: setStatement, sql: sql, settings: map[string]string{}}
	for {
		name, equals := s.next(), s.next()
		value := s.next()
		sign := ""
		if value.is("-") {
			sign, value = "-", s.next()
		}
		if name.kind != wordToken || !equals.is("=") || value.kind == punctToken || value.kind >= endToken {
			return st, fmt.Errorf("SET: want name = value, got %q", sql)
		}
		st.settings[name.text] = sign + value.value()
		switch t := s.next(); {
		case t.is(","):
		case t.is(";"), t.kind == endToken:
			return st, nil
		default:
			return st, fmt.Errorf("SET: want a comma or the end after %s, got %q", name.text, t.text)
		}
	}
}

func withoutFormat(sql string) string {
	rest, _ := cutFormat(sql)
	return rest
}

// cutFormat cuts a FORMAT clause that stands at the end, or before the SETTINGS at the end, and returns its name.
func cutFormat(sql string) (rest, format string) {
	var tokens []token
	s := scanner{text: sql}
	depth, at := 0, -1
	for t := s.next(); t.kind < endToken; t = s.next() {
		if t.is("(") {
			depth++
		}
		if t.is(")") {
			depth--
		}
		if depth == 0 && t.upper() == "FORMAT" && len(tokens) > 0 && endsExpression(tokens[len(tokens)-1]) {
			at = len(tokens)
		}
		tokens = append(tokens, t)
	}
	if at < 0 || at+1 >= len(tokens) || tokens[at+1].kind != wordToken {
		return sql, ""
	}
	if at+2 < len(tokens) && !tokens[at+2].is(";") && tokens[at+2].upper() != "SETTINGS" {
		return sql, ""
	}
	return sql[:tokens[at].start] + sql[tokens[at+1].end:], tokens[at+1].text
}

// endsExpression is true for what may stand before a FORMAT clause; after the others, format is a name.
func endsExpression(t token) bool {
	switch t.upper() {
	case "SELECT", "DISTINCT", "WHERE", "AND", "OR", "NOT", "BY", "AS", "FROM", "ON", "IN", "HAVING":
		return false
	}
	return t.kind != punctToken || t.is(")") || t.is("]") || t.is("*")
}

func hasWord(sql, word string) bool {
	s := scanner{text: sql}
	for depth, t := 0, s.next(); t.kind < endToken; t = s.next() {
		switch {
		case t.is("("):
			depth++
		case t.is(")"):
			depth--
		case depth == 0 && t.upper() == word:
			return true
		}
	}
	return false
}
