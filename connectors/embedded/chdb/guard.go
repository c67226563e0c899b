package chdb

import (
	"errors"
	"slices"
	"strings"
)

// A reader's statement is held back three times. libchdb's classifier lets only statements pass that leave no trace
// (INTO OUTFILE is not one); readonly=1 makes the engine refuse what changes anything and table functions in FROM; and
// the guard below refuses functions that reach beyond the tables. The third is needed, since readonly=1 lets these
// through, as tested: file('/etc/passwd') as a scalar, x IN file(...), DESCRIBE file(...), DESCRIBE url(...),
// EXISTS TABLE `/etc/passwd`.

// readerTableFunctions are the table functions that a reader may call: they make rows up, or read the engine's own
// tables. All others in system.table_functions read files, other hosts or run programs; new ones of a later release
// are refused until they stand here.
func readerTableFunctions() []string {
	return []string{
		"numbers", "numbers_mt", "zeros", "zeros_mt", "primes", "generaterandom", "generateseries", "generate_series",
		"values", "sqlstandardvalues", "null", "view", "viewifpermitted", "viewexplain", "merge", "dictionary", "loop",
		"format", "fuzzjson", "fuzzquery", "mergetreeindex", "mergetreeprojection", "mergetreetextindex",
	}
}

// hostFunctions are the other functions that reach beyond the tables: they read files or call other hosts.
func hostFunctions() []string {
	return []string{
		"file", "catboostevaluate", "hascolumnintable", "reversednsquery", "showcertificate",
		"aiclassify", "aiembed", "aiextract", "aigenerate", "aitranslate",
	}
}

// canonical returns sql as ClickHouse's own parser writes it: without comments, on one line, and with quotes only
// around names that need them. It fails with the parser's words on what does not parse, and runs nothing.
func (e *Engine) canonical(c *conn, sql string) (string, error) {
	const ask = "SELECT formatQuerySingleLine({q:String})"
	b, _, err := e.collect(start(e.lib.query, c.conn(), ask, "RawBLOB", map[string]string{"q": escapeTSV(sql)}))
	var ex *Exception
	if errors.As(err, &ex) {
		ex.Message, _, _ = strings.Cut(ex.Message, ": In scope SELECT formatQuery")
	}
	return string(b), err
}

// guard refuses functions and names of the host in a reader's canonical statement. Working on the parser's own text
// means that no comment, escape or quoting can hide a name from it.
func guard(canonical string, denied map[string]bool) error {
	l := lexer{s: canonical}
	first := strings.ToUpper(l.next())
	names := slices.Contains([]string{"EXISTS", "DESCRIBE", "SHOW", "CHECK"}, first)
	for prev, tok := first, l.next(); tok != ""; prev, tok = tok, l.next() {
		name := strings.ToLower(strings.Trim(tok, "`"))
		if names && tok[0] == '`' && strings.Contains(name, "/") {
			return refused("the name " + tok)
		}
		if denied[name] && (l.peek() == '(' || strings.EqualFold(prev, "APPLY")) {
			return refused("the function " + name)
		}
	}
	return nil
}

func refused(what string) error {
	return exception(codeReadOnly, "READONLY", "Cannot use "+what+" in readonly mode: this user reads tables only")
}
