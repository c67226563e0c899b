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
	for _, x := range []string{"insert into d.t", "insert into d.t (a,b)", "insert into d.t (a) settings x=1", "insert into d.t format CSV", "insert into d.t values (1)", "create temporary table x (a UInt8)", "select 1 format Native", "create table t (a UInt8) engine=Memory"} {
		fmt.Println(x)
		fmt.Println(e.Classify(ctx, x))
	}
	for _, x := range []string{"select file('/etc/passwd')", "describe file('/etc/passwd','LineAsString')", "describe url('http://127.0.0.1:1/x.csv')", "select * from default.`/etc/passwd`", "describe `/etc/passwd`", "exists table `/etc/passwd`", "show tables from default", "select * from remote('127.0.0.1:1', system.one)", "select * from s3('http://127.0.0.1:1/x/y.csv')", "select * from executable('x','CSV','a String','select 1')", "select * from mysql('127.0.0.1:1','a','b','c','d')", "select * from input('a String')", "select catboostEvaluate('/etc/passwd', 1)", "select * from merge('system','one')", "select * from numbers(1)", "select * from clusterAllReplicas('default', system.one)", "select * from cluster('default', view(select * from file('/etc/passwd','LineAsString')))", "select * from view(select * from file('/etc/passwd','LineAsString'))", "explain select * from file('/etc/passwd','LineAsString')", "select * from system.settings settings readonly=0 limit 1", "select 1 settings readonly=0", "select * from fileCluster('default','/etc/passwd','LineAsString')", "select * from sqlite('/tmp/x','y')", "select * from Python(x)", "select * from ArrowStream('x')", "show create table system.one", "check table system.one", "select dictGet('a','b',1)", "explain ast insert into d.t values (1)", "explain syntax create table t (a UInt8) engine=Memory", "select getServerSetting('max_server_memory_usage')", "select * from system.disks", "select addressToLine(1)", "select * from system.stack_trace", "select sleep(0.01)", "kill query where 1", "select * from generateRandom('a UInt8') limit 1", "select * from loop(file('/etc/passwd','LineAsString')) limit 1", "select * from mergeTreeIndex(d,t)", "select 1 as a into stdout", "with x as (select * from file('/etc/passwd','LineAsString')) select * from x", "select (select * from file('/etc/passwd','LineAsString') limit 1)", "select * from system.one where dummy in file('/etc/passwd','LineAsString')", "describe (select * from file('/etc/passwd'))", "describe (select * from file('/etc/passwd','CSV'))", "show columns from file('x')"} {
		q(Request{SQL: x, ReadOnly: true})
	}
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
