package spec

import (
	"bytes"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

const (
	// maxBytes bounds the file. The largest plants name some ten thousand channels, which is half of it.
	maxBytes = 1 << 20
	// maxTokens bounds what the YAML parser is given: its time grows with the square of a mapping's length, to about a
	// second at the bound. An entry of a mapping is three tokens.
	maxTokens = 60_000
	// maxDepth bounds nesting. The parser recurses, and a Go stack that overflows can't be recovered. The deepest config
	// of ours is a quarter of it.
	maxDepth = 32
)

type nodeKind uint8

const (
	nullNode   nodeKind = iota
	brokenNode          // has a fault of its own already
	plainNode
	quotedNode // always text, whatever it looks like
	mappingNode
	sequenceNode
)

// node is a YAML value with its place. An alias is the very node of its anchor, so that a file of aliases to aliases takes
// no memory; the decoder bounds how often they are visited.
type node struct {
	kind    nodeKind
	pos     Position
	text    string  // plainNode, quotedNode
	entries []entry // mappingNode, in order; keys are unique
	items   []*node // sequenceNode
}

type entry struct {
	key   string
	pos   Position
	value *node
}

// describe says what came, for messages.
func (n *node) describe() string {
	switch n.kind {
	case mappingNode:
		if len(n.entries) == 0 {
			return "an empty mapping"
		}
		return "a mapping"
	case sequenceNode:
		if len(n.items) == 0 {
			return "an empty list"
		}
		return "a list"
	case quotedNode:
		return "the text " + quoted(n.text)
	case plainNode:
		switch {
		case isNumber(n.text):
			return "the number " + n.text[:min(len(n.text), 40)]
		case isBool(n.text):
			return n.text
		}
		return quoted(n.text)
	}
	return "nothing"
}

// What a plain scalar means, after the core schema of YAML 1.2.2, 10.3.2, less its hexadecimal and octal numbers.
var numberPattern = regexp.MustCompile(`^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$`)

func isNumber(plain string) bool { return numberPattern.MatchString(plain) }

func isBool(plain string) bool { return plain == "true" || plain == "false" }

func isNull(plain string) bool { return plain == "" || plain == "~" || plain == "null" }

// treeBuilder turns the parser's nodes into ours and gathers what a pipeline file may not have.
type treeBuilder struct {
	file    string
	faults  *faultList
	anchors map[string]*node
}

// parseTree reads text as one YAML document. It returns nil if there is none to go on with; the faults say why.
func parseTree(file string, text []byte, faults *faultList) *node {
	b := &treeBuilder{file: file, faults: faults, anchors: map[string]*node{}}
	top := Position{File: file, Line: 1, Column: 1}
	if len(text) > maxBytes {
		faults.add(top, "", "want at most %d bytes, got %d", maxBytes, len(text))
		return nil
	}
	text = bytes.TrimPrefix(text, []byte("\ufeff"))
	text = bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n")) // the lexer counts a line twice where a comment ends so
	if at := invalidUTF8(text); at >= 0 {
		faults.add(b.offset(text, at), "", "want UTF-8, got the byte 0x%02x", text[at])
		return nil
	}
	tokens := lexer.Tokenize(string(text))
	if !b.bounded(tokens) {
		return nil
	}
	doc, err := parse(mend(tokens))
	if err != nil {
		b.syntax(err)
		return nil
	}
	if len(doc.Docs) > 1 {
		pos := top
		if start := doc.Docs[1].Start; start != nil {
			pos = b.place(start)
		}
		faults.add(pos, "", "want one document, got %d", len(doc.Docs))
		return nil
	}
	if len(doc.Docs) == 0 || doc.Docs[0].Body == nil {
		faults.add(top, "", "want a pipeline, got an empty file")
		return nil
	}
	return b.build(doc.Docs[0].Body, top, "", 0)
}

// parse runs the YAML parser, which has panicked on malformed text before; whatever it does, the file is at fault.
func parse(tokens token.Tokens) (f *ast.File, err error) {
	defer func() {
		if r := recover(); r != nil {
			f, err = nil, fmt.Errorf("the text confuses the parser (%v)", r)
		}
	}()
	return parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
}

// bounded says whether the parser may be trusted with tokens. Nesting grows with open brackets and with indicators in a
// row ("- - - x"); nesting by indentation is bounded by the size of the file.
func (b *treeBuilder) bounded(tokens token.Tokens) bool {
	if len(tokens) > maxTokens {
		b.faults.add(b.place(tokens[maxTokens]), "", "want at most %d YAML tokens, got %d", maxTokens, len(tokens))
		return false
	}
	open, row := 0, 0
	for _, t := range tokens {
		switch t.Type {
		case token.SequenceStartType, token.MappingStartType:
			open++
		case token.SequenceEndType, token.MappingEndType:
			open--
		case token.SequenceEntryType, token.MappingKeyType, token.MappingValueType, token.TagType, token.AnchorType:
			row++
		default:
			row = 0
		}
		if open > maxDepth || row > maxDepth {
			b.faults.add(b.place(t), "", "want values nested at most %d deep", maxDepth)
			return false
		}
	}
	return true
}

// syntax reports an error of the YAML parser, which has the place in a token.
func (b *treeBuilder) syntax(err error) {
	pos, message := Position{File: b.file, Line: 1, Column: 1}, err.Error()
	if e, ok := err.(interface {
		GetMessage() string
		GetToken() *token.Token
	}); ok {
		message = e.GetMessage()
		if t := e.GetToken(); t != nil {
			pos = b.place(t)
		}
	}
	first, _, _ := strings.Cut(message, "\n")
	escaped := strconv.Quote(first) // the parser's messages quote the text as it is
	b.faults.add(pos, "", "not YAML: %s", strings.ReplaceAll(escaped[1:len(escaped)-1], `\"`, `"`))
}

func (b *treeBuilder) place(t *token.Token) Position {
	if t == nil || t.Position == nil {
		return Position{File: b.file}
	}
	return Position{File: b.file, Line: t.Position.Line, Column: t.Position.Column}
}

// offset is the place of a byte.
func (b *treeBuilder) offset(text []byte, at int) Position {
	line := bytes.LastIndexByte(text[:at], '\n') + 1
	return Position{
		File: b.file, Line: bytes.Count(text[:at], []byte("\n")) + 1, Column: utf8.RuneCount(text[line:at]) + 1,
	}
}

func invalidUTF8(text []byte) int {
	for i := 0; i < len(text); {
		r, size := utf8.DecodeRune(text[i:])
		if r == utf8.RuneError && size == 1 {
			return i
		}
		i += size
	}
	return -1
}

// build never returns nil: what can't be used becomes a brokenNode with a fault. pos is the place of what leads to n.
func (b *treeBuilder) build(n ast.Node, pos Position, path string, depth int) *node {
	if depth > maxDepth {
		b.faults.add(pos, path, "want values nested at most %d deep", maxDepth)
		return &node{kind: brokenNode, pos: pos}
	}
	switch n := n.(type) {
	case nil:
		return &node{pos: pos}
	case *ast.NullNode:
		return &node{pos: pos}
	case *ast.MappingNode:
		return b.mapping(n.Values, b.start(n, pos), path, depth)
	case *ast.MappingValueNode:
		return b.mapping([]*ast.MappingValueNode{n}, b.start(n, pos), path, depth)
	case *ast.SequenceNode:
		out := &node{kind: sequenceNode, pos: b.place(n.Start)}
		for i, v := range n.Values {
			out.items = append(out.items, b.build(v, b.start(v, out.pos), fmt.Sprintf("%s[%d]", path, i), depth+1))
		}
		return out
	case *ast.AnchorNode:
		out := b.build(n.Value, b.place(n.Start), path, depth)
		if n.Name != nil { // set after the value: an alias can't lead to what it stands in
			b.anchors[n.Name.GetToken().Value] = out
		}
		return out
	case *ast.AliasNode:
		if n.Value != nil {
			name := n.Value.GetToken().Value
			if out := b.anchors[name]; out != nil {
				return out
			}
			b.faults.add(b.place(n.Start), path, "no anchor %s stands before this alias", quoted("&"+name))
		}
		return &node{kind: brokenNode, pos: b.place(n.Start)}
	case *ast.TagNode:
		b.faults.add(b.place(n.Start), path, "tags such as %s are not supported", quoted(n.Start.Value))
		return &node{kind: brokenNode, pos: b.place(n.Start)}
	case *ast.LiteralNode:
		return &node{kind: quotedNode, pos: b.place(n.Start), text: n.Value.Value}
	case *ast.StringNode:
		if n.Token.Type == token.SingleQuoteType || n.Token.Type == token.DoubleQuoteType {
			return &node{kind: quotedNode, pos: b.place(n.Token), text: n.Value}
		}
		return b.plain(n.Token, n.Value)
	case ast.ScalarNode:
		return b.plain(n.GetToken(), n.GetToken().Value)
	}
	b.faults.add(pos, path, "want a mapping, a list or a value, got a YAML %s", strings.ToLower(n.Type().YAMLName()))
	return &node{kind: brokenNode, pos: pos}
}

func (b *treeBuilder) plain(t *token.Token, text string) *node {
	if isNull(text) {
		return &node{pos: b.place(t)}
	}
	return &node{kind: plainNode, pos: b.place(t), text: text}
}

// start is where n begins: a mapping's own token is its first colon.
func (b *treeBuilder) start(n ast.Node, pos Position) Position {
	switch n := n.(type) {
	case nil:
		return pos
	case *ast.MappingNode:
		if n.IsFlowStyle || len(n.Values) == 0 {
			return b.place(n.Start)
		}
		return b.place(n.Values[0].Key.GetToken())
	case *ast.MappingValueNode:
		return b.place(n.Key.GetToken())
	case *ast.NullNode:
		return pos
	}
	return b.place(n.GetToken())
}

func (b *treeBuilder) mapping(values []*ast.MappingValueNode, pos Position, path string, depth int) *node {
	out := &node{kind: mappingNode, pos: pos}
	seen := make(map[string]Position, len(values))
	for _, v := range values {
		keyPos := b.place(v.Key.GetToken())
		key, ok := keyText(v.Key)
		if !ok {
			b.faults.add(keyPos, path, "want a plain key, got a YAML %s", strings.ToLower(v.Key.Type().YAMLName()))
			continue
		}
		if first, ok := seen[key]; ok {
			b.faults.add(keyPos, path, "key %s is already set in line %d", quoted(key), first.Line)
			continue
		}
		seen[key] = keyPos
		value := b.build(v.Value, keyPos, join(path, key), depth+1)
		out.entries = append(out.entries, entry{key: key, pos: keyPos, value: value})
	}
	return out
}

// keyText refuses keys that are not scalars, merge keys ("<<") among them: a file says what it means where it stands.
func keyText(k ast.MapKeyNode) (string, bool) {
	switch k := k.(type) {
	case *ast.StringNode:
		return k.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.NullNode, *ast.InfinityNode, *ast.NanNode:
		return k.GetToken().Value, true
	}
	return "", false
}

var plainKey = regexp.MustCompile(`^[A-Za-z0-9_-]{1,80}$`)

// join appends a key to a path, quoted unless it is a plain word.
func join(path, key string) string {
	if !plainKey.MatchString(key) {
		key = quoted(key)
	}
	if path == "" {
		return key
	}
	return path + "." + key
}
