// Package clickhouse is the sink that stores checkpoints in ClickHouse, and the tool that makes its tables.
//
// # Blocks
//
// Every table is cut into blocks: the rows of one calendar month of event time (one partition of the table), at most
// as many as the checkpoint says. The cut follows from the rows and their order alone. A block is one INSERT, hence one
// part: stored whole or not at all. Blocks of a table are numbered from 0 within their checkpoint, and the number, the run
// and the checkpoint stand in every row. An INSERT carries a token made of them, so that the server drops a block that it
// already has.
//
// # Exactly once
//
// Tokens alone both lose and double: a server writes a token down before the part is in place, and it forgets old tokens.
// So a block in doubt, after a failed attempt or in a checkpoint that is resent, is looked for by the lineage in its rows,
// before it is sent and after it is acknowledged. See [Sink.Write] and insert.go. Any number of processes may resend the same
// checkpoint at once.
//
// A block that the server refuses because of its rows is halved down to the rows at fault, which Write gives back. Who
// halves it again makes the same halves. See bisect.go.
//
// The ledger, the table checkpoints, says for each partition of a settled checkpoint which offsets it covered and where
// their rows went. See [Sink.Record].
//
// # Materialized views
//
// An INSERT feeds the views of a table under the same token. At the start every table that it reaches is checked for its
// window of tokens. A block that is found stored is sent once more if its table has views and the token cannot have been
// forgotten, since a server that is killed may have the block in the table and not in a view. Two things remain: a view that
// throws does not get the block, which the table has; and a block that had to be sent under a further token, because a
// kill came between token and part, may be in a view twice.
//
// # Encoding
//
// Columns go out as the Arrow buffers they are, where the types allow; nothing is converted row by row through an
// interface. See column.go.
package clickhouse
