package window

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strings"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/checker"
	"github.com/google/cel-go/common/ast"
	"github.com/google/cel-go/common/operators"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"

	"github.com/tailrace/tailrace/schemas"
)

// tagMap is the name of the map of tags in an expression.
const tagMap = "tag"

// maxExpression bounds the length of an expression, in bytes, before it is parsed: far above what a person writes.
const maxExpression = 4096

// maxDepth bounds how deep an expression may nest, so that it can't exhaust the parser's stack.
const maxDepth = 64

// identifier is what an expression can name without tag[...]: what CEL's grammar takes for one.
var identifier = regexp.MustCompile(`^[_a-zA-Z][_a-zA-Z0-9]*$`)

// expression is a condition on the tags of one row.
type expression struct {
	program cel.Program
	names   []int // channels used by their plain names
	mapped  []int // channels used through the map
}

// language is the CEL of one layout. A language is for one goroutine.
type language struct {
	channels []schemas.Channel
	plain    map[string]int // channel by name, those that can be named plainly
	env      *cel.Env
	vars     map[string]any     // of the row at hand
	tags     map[string]float64 // of the row at hand
}

func newLanguage(channels []schemas.Channel) (*language, error) {
	l := &language{channels: channels, plain: map[string]int{}, tags: map[string]float64{}}
	l.vars = map[string]any{tagMap: l.tags}
	base, err := cel.NewEnv()
	if err != nil {
		return nil, fmt.Errorf("expressions: %w", err)
	}
	options := []cel.EnvOption{
		cel.Variable(tagMap, cel.MapType(cel.StringType, cel.DoubleType)), cel.CrossTypeNumericComparisons(true),
		cel.ParserExpressionSizeLimit(maxExpression), cel.ParserRecursionLimit(maxDepth),
	}
	for i, channel := range channels {
		if channel.Tag == tagMap || !identifier.MatchString(channel.Tag) || !parses(base, channel.Tag) {
			continue
		}
		l.plain[channel.Tag] = i
		options = append(options, cel.Variable(channel.Tag, cel.DoubleType))
	}
	if l.env, err = base.Extend(options...); err != nil {
		return nil, fmt.Errorf("expressions: %w", err)
	}
	return l, nil
}

// parses tells whether a tag is free for a name: not a reserved word, a type or a literal.
func parses(env *cel.Env, tag string) bool {
	tree, issues := env.Parse(tag)
	if issues.Err() != nil || tree.NativeRep().Expr().Kind() != ast.IdentKind {
		return false
	}
	_, issues = env.Check(tree)
	return issues.Err() != nil // names that are known already are taken
}

// compile reads a condition. maxCost bounds what one row may cost, in CEL's units.
func (l *language) compile(text string, maxCost uint64) (*expression, error) {
	tree, issues := l.env.Parse(text)
	if err := issues.Err(); err != nil {
		return nil, inOneLine(err)
	}
	checked, issues := l.env.Check(tree)
	if first := issues.Err(); first != nil {
		// Tags are doubles: 1 stands for 1.0 wherever the text is right only so.
		if tree, issues = l.env.Parse(text); issues.Err() == nil {
			doubles(tree)
			checked, issues = l.env.Check(tree)
		}
		if issues.Err() != nil {
			return nil, inOneLine(first)
		}
	}
	if !checked.OutputType().IsExactType(cel.BoolType) {
		return nil, fmt.Errorf("want a condition, got a value of type %s", checked.OutputType())
	}
	e := &expression{}
	if err := l.uses(checked, e); err != nil {
		return nil, err
	}
	cost, err := l.env.EstimateCost(checked, estimator{entries: uint64(len(l.channels)), longest: l.longest()})
	if err != nil {
		return nil, fmt.Errorf("cost: %w", err)
	}
	if cost.Max > maxCost {
		return nil, fmt.Errorf("want a cost of at most max_cost %d a row, got up to %d", maxCost, cost.Max)
	}
	if e.program, err = l.env.Program(checked, cel.EvalOptions(cel.OptOptimize)); err != nil {
		return nil, inOneLine(err)
	}
	return e, nil
}

// inOneLine leaves out the drawing of the place that CEL puts under its messages.
func inOneLine(err error) error {
	var lines []string
	for line := range strings.Lines(err.Error()) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '|' {
			lines = append(lines, strings.TrimPrefix(line, "ERROR: <input>:"))
		}
	}
	return errors.New(strings.Join(lines, "; "))
}

// doubles turns the whole numbers of an expression into doubles.
func doubles(tree *cel.Ast) {
	factory := ast.NewExprFactory()
	ast.PostOrderVisit(tree.NativeRep().Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		if e.Kind() != ast.LiteralKind {
			return
		}
		if v, ok := e.AsLiteral().(types.Int); ok {
			e.SetKindCase(factory.NewLiteral(e.ID(), types.Double(v)))
		}
	}))
}

// uses finds the channels that an expression reads, so that only those are laid out for each row, and refuses tags that
// there are none of.
func (l *language) uses(tree *cel.Ast, e *expression) error {
	names, mapped, constant, loose := map[int]bool{}, map[int]bool{}, 0, 0
	var missing []error
	ast.PostOrderVisit(tree.NativeRep().Expr(), ast.NewExprVisitor(func(x ast.Expr) {
		switch x.Kind() {
		case ast.IdentKind:
			if x.AsIdent() == tagMap {
				loose++
			} else if i, ok := l.plain[x.AsIdent()]; ok {
				names[i] = true
			}
		case ast.CallKind:
			tag, ok := constantTag(x.AsCall())
			if !ok {
				return
			}
			constant++
			i := slices.IndexFunc(l.channels, func(c schemas.Channel) bool { return c.Tag == tag })
			if i < 0 {
				missing = append(missing, fmt.Errorf("%s[%q]: want a tag of align's channels", tagMap, tag))
				return
			}
			mapped[i] = true
		}
	}))
	if loose > constant {
		for i := range l.channels {
			mapped[i] = true
		}
	}
	e.names, e.mapped = slices.Sorted(maps.Keys(names)), slices.Sorted(maps.Keys(mapped))
	return errors.Join(missing...)
}

// constantTag reads tag["name"].
func constantTag(call ast.CallExpr) (string, bool) {
	if call.FunctionName() != operators.Index || len(call.Args()) != 2 {
		return "", false
	}
	of, by := call.Args()[0], call.Args()[1]
	if of.Kind() != ast.IdentKind || of.AsIdent() != tagMap || by.Kind() != ast.LiteralKind {
		return "", false
	}
	text, ok := by.AsLiteral().(types.String)
	return string(text), ok
}

func (l *language) longest() uint64 {
	n := 0
	for _, c := range l.channels {
		n = max(n, len(c.Tag))
	}
	return uint64(n)
}

// estimator bounds the sizes that the cost of an expression follows.
type estimator struct{ entries, longest uint64 }

// EstimateSize bounds the map of tags and the texts in it; everything else in an expression is as long as it is
// written.
func (s estimator) EstimateSize(node checker.AstNode) *checker.SizeEstimate {
	if path := node.Path(); len(path) == 1 && path[0] == tagMap {
		return &checker.SizeEstimate{Min: 0, Max: s.entries}
	}
	if node.Type() != nil && node.Type().Kind() == types.StringKind {
		return &checker.SizeEstimate{Min: 0, Max: max(s.longest, maxExpression)}
	}
	return nil
}

// EstimateCallCost leaves calls at their usual cost.
func (s estimator) EstimateCallCost(string, string, *checker.AstNode, []checker.AstNode) *checker.CallEstimate {
	return nil
}

// holds evaluates a condition on a row, of which cells are the samples, NaN where there is none. One that needs a
// sample that is not there, or that can't be computed, does not hold.
func (l *language) holds(e *expression, cells []float64) bool {
	clear(l.tags)
	for _, i := range e.mapped {
		if v := cells[i]; !math.IsNaN(v) {
			l.tags[l.channels[i].Tag] = v
		}
	}
	for _, i := range e.names {
		if v := cells[i]; !math.IsNaN(v) {
			l.vars[l.channels[i].Tag] = v
		} else {
			delete(l.vars, l.channels[i].Tag)
		}
	}
	value, _, err := e.program.Eval(l.vars)
	return err == nil && value == ref.Val(types.True)
}
