// Package kafka reads telemetry from Kafka and writes events and dead letters to it.
//
// kafka-go does what is rare: it dials, keeps the group membership, commits, produces and administers. What is done
// for every record is our own: a Fetch v13 request and a decoder of record batches on a connection that kafka-go
// dialled, which costs a tenth of kafka.Reader and checks what the Reader does not.
//
// # Non-obvious
//
// Heartbeats. kafka-go's heartbeats end with the generation, and an owner that drains for longer than the session
// timeout would be evicted while its rows are still on their way. So a Generation heartbeats itself between Revoked
// and the next Next or Close; the broker then waits for the rebalance timeout.
//
// Offsets. kafka-go's group reads committed offsets without looking at the error of a partition, and an error would
// look like "nothing committed yet": the partition would start at the earliest message. So they are read again, with
// the errors.
//
// Prefetch. The request for what follows is sent before a response is decoded, so the broker works meanwhile; the
// response waits in the socket. There is one buffer per partition, never two. The offset to ask for next comes from
// batch headers that are not yet checked; that does no harm, since a batch whose checksum fails drops the connection
// and with it the response.
//
// Transactions. The fetch is read_committed: it ends at the last stable offset, and the broker names the aborted
// transactions, whose records are still in the log and are left out here. Control batches carry no data. The
// partition's end is the last stable offset everywhere.
//
// Metadata through kafka-go's Conn makes topics on brokers that create them on demand. So topics are looked up with a
// request of our own that does not.
package kafka
