// Package clickhouse is the sink that stores checkpoints in ClickHouse, and the tool that makes its tables.
//
// Every table is cut into blocks: the rows of one calendar month of event time (one partition of the table), at most
// insert_rows_max of them. A block is one INSERT, hence one part: stored whole or not at all. Blocks of a table are
// numbered from 0 within their checkpoint, and the number, the run and the checkpoint stand in every row. An INSERT
// carries a token made of them, so that the server drops a block that it already has.
//
// Columns go out as the Arrow buffers they are, where the types allow; nothing is converted row by row through an
// interface. See column.go.
package clickhouse
