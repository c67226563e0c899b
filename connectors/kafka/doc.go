// Package kafka reads telemetry from Kafka and writes events, late rows and dead letters to it.
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
// the errors and the metadata. Joining commits nothing: the engine commits where a partition starts, with the metadata
// that it recovers by.
//
// Commits. A request without an answer may still be stored, after a later one of the same member and generation. So it
// is not sent again: the generation ends, and what a later one stored is safe, since the broker refuses the stale
// request then. What the broker has answered that it did not store is sent again. A request is half applied where one
// partition's fault is not another's, so each result is looked at.
//
// New partitions. A partition without a commit in a group that has others is one that the topic has gained, and starts
// at its first message. But two processes that start a group together also see each other's first commits, so each
// looks before it joins whether there were any.
//
// Taking over. A member that is killed holds its partitions for the session timeout. Its process keeps the member's id
// in a file under a lock that ends with the process; whoever starts next on the machine and finds such a file without a
// lock leaves the group in that member's name first.
//
// Reading again. After a crash the rows of a range of offsets are decoded a second time, and must be the same. What the
// cut of fetches and deliveries is does not matter for that; what a decoder remembers from before the range does.
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
