package chdb

import (
	"bytes"
	"context"
	"fmt"
	"testing"

	"github.com/tailrace/tailrace/deploy/native"
)

func TestProbe(t *testing.T) {
	lib, err := native.Resolve(context.Background(), native.LibCHDB, native.Options{})
	if err != nil {
		t.Fatal(err)
	}
	e, err := Open(Options{Library: lib, Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	ctx := context.Background()
	q := func(r Request) {
		t.Helper()
		b, st, err := e.Query(ctx, r)
		fmt.Printf("%q ro=%v -> %q %+v %v\n", r.SQL, r.ReadOnly, b, st, err)
	}
	fmt.Println(e.Version())
	q(Request{SQL: "select 1"})
	q(Request{SQL: "select 1;"})
	q(Request{SQL: "select 1 -- x"})
	q(Request{SQL: "select 1;select 2"})
	q(Request{SQL: "selec 1 from"})
	q(Request{SQL: "selec 1 from", ReadOnly: true})
	q(Request{SQL: "", ReadOnly: true})
	q(Request{SQL: "select 1 into outfile '/tmp/a_out'", ReadOnly: true})
	q(Request{SQL: "select * from file('/etc/passwd','LineAsString')", ReadOnly: true})
	q(Request{SQL: "select * from url('http://127.0.0.1:1/','LineAsString')", ReadOnly: true})
	q(Request{SQL: "select * from `/etc/passwd`", ReadOnly: true})
	q(Request{SQL: "set max_threads=3", ReadOnly: true})
	q(Request{SQL: "create database d"})
	q(Request{SQL: "select currentDatabase()", Database: "d"})
	q(Request{SQL: "select currentDatabase()", Database: "d", ReadOnly: true})
	q(Request{SQL: "select currentDatabase()", Database: "nope"})
	q(Request{SQL: "create table d.t (a UInt64, s String) engine=MergeTree order by a"})
	fmt.Println(e.Insert(ctx, Request{SQL: "insert into d.t (a,s) settings insert_deduplication_token='x' format JSONEachRow"}, bytes.NewReader([]byte("{\"a\":1,\"s\":\"x\"}\n\n{\"a\":2,\"s\":\"y\"}\n"))))
	fmt.Println(e.Insert(ctx, Request{SQL: "insert into t values", Database: "d"}, bytes.NewReader([]byte("(3,'z'),(4,'drop table t')"))))
	fmt.Println(e.Insert(ctx, Request{SQL: "insert into nope format CSV", Database: "d"}, bytes.NewReader([]byte("3"))))
	fmt.Println(e.Insert(ctx, Request{SQL: "insert into d.t format CSV", Database: "d"}, bytes.NewReader([]byte("3,\"x\"\nfoo,bar"))))
	fmt.Println(e.Insert(ctx, Request{SQL: "insert into d.t select 7, 'y'", Database: "d"}, bytes.NewReader(nil)))
	q(Request{SQL: "insert into d.t select 7, 'y'", Database: "d"})
	q(Request{SQL: "select a, s from t order by a", Database: "d", ReadOnly: true, Format: "JSONEachRow"})
	q(Request{SQL: "select a, s from t order by a format CSV", Database: "d", ReadOnly: true, Format: "JSONEachRow"})
	q(Request{SQL: "select {x:UInt8}+1, {y:String}", Params: map[string]string{"x": "4", "y": ""}, ReadOnly: true})
	q(Request{SQL: "select {x:UInt8}", Params: map[string]string{"x": "a"}, ReadOnly: true})
	q(Request{SQL: "select * from nope", ReadOnly: true})
	q(Request{SQL: "select throwIf(1)", ReadOnly: true})
	q(Request{SQL: "select getSetting('max_threads'), getSetting('max_execution_time'), getSetting('readonly')", ReadOnly: true})
	q(Request{SQL: "select getSetting('max_threads'), getSetting('max_execution_time')", ReadOnly: true, Settings: map[string]string{"max_execution_time": "5"}})
	q(Request{SQL: "select getSetting('max_threads')", Settings: map[string]string{"max_threads": "5"}})
	q(Request{SQL: "select getSetting('max_threads')", Settings: map[string]string{"max_threads": "foo"}})
	q(Request{SQL: "select getSetting('max_threads')", Settings: map[string]string{"max_thread": "foo"}})
	q(Request{SQL: "show tables", Database: "d", ReadOnly: true})
	q(Request{SQL: "explain select 1", Database: "d", ReadOnly: true})
	q(Request{SQL: "use d", ReadOnly: true})
	q(Request{SQL: "use d"})
	q(Request{SQL: "select query from system.processes", ReadOnly: true})
}
