package chwire

import (
	"fmt"
	"strings"
)

// Codes of a client's packets.
const (
	ClientHello  = 0
	ClientQuery  = 1
	ClientData   = 2
	ClientCancel = 3
	ClientPing   = 4
)

// Hello is a client's first packet.
type Hello struct {
	Client                   string
	Major, Minor, Revision   uint64
	Database, User, Password string
}

// HelloBytes bounds a Hello, whose sender nobody knows yet. A password may be a token of some kilobytes.
const HelloBytes = 64 << 10

// ReadHello takes a Hello, code included.
func ReadHello(r *Reader) (Hello, error) {
	r.Budget("hello", HelloBytes)
	var h Hello
	code, err := r.Byte()
	if err != nil {
		return h, err
	}
	if code != ClientHello {
		return h, fmt.Errorf("hello: want packet %d, got %d: is this a client of the native protocol?", ClientHello, code)
	}
	d := decoder{r: r}
	d.text("client name", &h.Client)
	d.number("major version", &h.Major)
	d.number("minor version", &h.Minor)
	d.number("revision", &h.Revision)
	d.text("database", &h.Database)
	d.text("user", &h.User)
	d.text("password", &h.Password)
	if d.err != nil {
		return h, fmt.Errorf("hello: %w", d.err)
	}
	return h, nil
}

// ReadAddendum takes what a client sends after the server's hello: a quota key, which means nothing here.
func ReadAddendum(r *Reader, revision int) error {
	if revision < revisionAddendum {
		return nil
	}
	r.Budget("addendum", HelloBytes)
	if _, err := r.String(); err != nil {
		return fmt.Errorf("addendum: %w", err)
	}
	return nil
}

// Setting is a name and its value, as text.
type Setting struct{ Name, Value string }

// Query is a client's query, without what describes the client.
type Query struct {
	ID         string
	Body       string
	Compressed bool // the blocks of this query are in compressed frames, both ways
	Settings   []Setting
	Parameters []Setting
}

// maxSettings bounds the settings, and the parameters, of a query: ClickHouse has about 1500.
const maxSettings = 4096

// ReadQuery takes a Query after its code, within the budget that the caller set.
func ReadQuery(r *Reader, revision int) (Query, error) {
	var q Query
	d := decoder{r: r}
	d.text("query id", &q.ID)
	d.clientInfo(revision)
	d.settings("setting", &q.Settings)
	if revision >= revisionInterserverSecret {
		d.skipText("interserver secret")
	}
	d.skipNumber("stage")
	var compressed uint64
	d.number("compression", &compressed)
	q.Compressed = compressed != 0
	d.text("query text", &q.Body)
	if revision >= revisionParameters {
		d.settings("parameter", &q.Parameters)
	}
	if d.err != nil {
		return q, fmt.Errorf("query packet: %w", d.err)
	}
	for i, p := range q.Parameters {
		q.Parameters[i].Value = undump(p.Value)
	}
	return q, nil
}

// clientInfo skips what a client says about itself.
func (d *decoder) clientInfo(revision int) {
	if kind := d.byte("query kind"); kind == 0 {
		return // no query: nothing follows
	}
	d.skipText("initial user")
	d.skipText("initial query id")
	d.skipText("initial address")
	if revision >= revisionQueryStartTime {
		d.skip("query start time", 8)
	}
	if face := d.byte("interface"); d.err == nil && face != 1 {
		d.err = fmt.Errorf("interface: want 1 (TCP), got %d", face)
	}
	d.skipText("system user")
	d.skipText("host name")
	d.skipText("client name")
	d.skipNumber("major version")
	d.skipNumber("minor version")
	d.skipNumber("revision")
	if revision >= revisionQuotaKey {
		d.skipText("quota key")
	}
	if revision >= revisionDistributedDepth {
		d.skipNumber("distributed depth")
	}
	if revision >= revisionVersionPatch {
		d.skipNumber("patch version")
	}
	if revision >= revisionOpenTelemetry && d.byte("trace") != 0 {
		d.skip("trace and span id", 24)
		d.skipText("trace state")
		d.skip("trace flags", 1)
	}
	if revision >= revisionParallelReplicas {
		for range 3 {
			d.skipNumber("parallel replicas")
		}
	}
}

// Bits of a setting's flags.
const settingCustom = 2

func (d *decoder) settings(what string, out *[]Setting) {
	for d.err == nil {
		var s Setting
		d.text(what, &s.Name)
		if d.err != nil || s.Name == "" {
			return
		}
		var flags uint64
		d.number(what+" "+s.Name, &flags)
		d.text(what+" "+s.Name, &s.Value)
		if flags&settingCustom != 0 && what == "setting" {
			s.Value = undump(s.Value)
		}
		if *out = append(*out, s); len(*out) > maxSettings {
			d.err = &LimitError{What: what + "s of a query", Limit: maxSettings}
		}
	}
}

// undump takes the quotes and the escapes off a value that was written as a literal: parameters and custom settings are.
func undump(s string) string {
	if len(s) < 2 || s[0] != '\'' || s[len(s)-1] != '\'' {
		return s
	}
	s = s[1 : len(s)-1]
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		i++
		if at := strings.IndexByte("nrt0bfav", s[i]); at >= 0 {
			b.WriteByte("\n\r\t\x00\b\f\a\v"[at])
			continue
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// decoder takes fields until one fails, and keeps where.
type decoder struct {
	r   *Reader
	err error
}

func (d *decoder) do(what string, take func() error) {
	if d.err != nil {
		return
	}
	if err := take(); err != nil {
		d.err = fmt.Errorf("%s: %w", what, err)
	}
}

func (d *decoder) text(what string, out *string) {
	d.do(what, func() (err error) { *out, err = d.r.String(); return })
}

func (d *decoder) number(what string, out *uint64) {
	d.do(what, func() (err error) { *out, err = d.r.Uvarint(); return })
}

func (d *decoder) byte(what string) (b byte) {
	d.do(what, func() (err error) { b, err = d.r.Byte(); return })
	return b
}

func (d *decoder) skip(what string, n int) {
	d.do(what, func() error { return d.r.Full(make([]byte, n)) })
}

func (d *decoder) skipText(what string)   { var s string; d.text(what, &s) }
func (d *decoder) skipNumber(what string) { var n uint64; d.number(what, &n) }
