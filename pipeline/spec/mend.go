package spec

import "github.com/goccy/go-yaml/token"

// mend joins what the lexer takes apart: in a flow sequence inside a flow mapping, "{brokers: [127.0.0.1:9092]}", it reads
// a mapping of 127.0.0.1 to 9092, while a colon that no space follows belongs to the text (YAML 1.2.2, section 7.3.3).
func mend(tokens token.Tokens) token.Tokens {
	var kept token.Tokens
	var open []token.Type
	for i := 0; i < len(tokens); i++ {
		t := tokens[i]
		switch t.Type {
		case token.SequenceStartType, token.MappingStartType:
			open = append(open, t.Type)
		case token.SequenceEndType, token.MappingEndType:
			open = open[:max(0, len(open)-1)]
		}
		inSequence := len(open) > 0 && open[len(open)-1] == token.SequenceStartType
		for inSequence && i+2 < len(tokens) && plainText(t) && tokens[i+1].Type == token.MappingValueType && adjacent(tokens[i+1], tokens[i+2]) {
			t.Type, t.Value, t.Origin = token.StringType, t.Value+":"+tokens[i+2].Value, t.Origin+":"+tokens[i+2].Origin
			i += 2
		}
		kept = append(kept, t)
	}
	for i, t := range kept {
		t.Prev, t.Next = nil, nil
		if i > 0 {
			t.Prev, kept[i-1].Next = kept[i-1], t
		}
	}
	return kept
}

// plainText says whether t is a scalar without quotes.
func plainText(t *token.Token) bool {
	switch t.Type {
	case token.StringType, token.IntegerType, token.FloatType, token.BoolType, token.NullType:
		return true
	}
	return false
}

// adjacent says whether the plain scalar b follows the colon a without a space.
func adjacent(a, b *token.Token) bool {
	return plainText(b) && a.Position.Line == b.Position.Line && a.Position.Column+1 == b.Position.Column
}
