// Package chwire reads and writes the bytes of ClickHouse's native protocol, from the server's side: packets, compressed
// frames and Native blocks. It is written for bytes from a network: whatever arrives, memory stays within the caller's
// limits, and what is wrong comes back as an error that says where.
//
// Blocks are not decoded. A column's bytes are the same in every revision that the Go clients speak, so a block goes from
// one revision to another by copying, and a type is read only as far as needed to know where its column ends. A decode
// and encode of the same block with clickhouse-go takes 16 times as long (BenchmarkCopyBlock).
//
// Sources: ClickHouse's src/Core/ProtocolDefines.h, src/Formats/NativeReader.cpp and src/DataTypes/Serializations, as the
// Go clients read them (github.com/ClickHouse/ch-go/proto v0.74.0, github.com/ClickHouse/clickhouse-go/v2/lib/proto v2.50.0).
package chwire

// Revision is the protocol revision that a server should answer with: the newest that ch-go and clickhouse-go speak.
const Revision = 54460

// OldestRevision is the oldest revision that DecodeQuery reads: before it, settings were not texts.
const OldestRevision = 54429

// Revisions at which the layout changed (src/Core/ProtocolDefines.h).
const (
	revisionBlockInfo           = 51903
	revisionTimezone            = 54058
	revisionQuotaKey            = 54060
	revisionDisplayName         = 54372
	revisionVersionPatch        = 54401
	revisionInterserverSecret   = 54441
	revisionOpenTelemetry       = 54442
	revisionDistributedDepth    = 54448
	revisionQueryStartTime      = 54449
	revisionParallelReplicas    = 54453
	revisionCustomSerialization = 54454
	revisionAddendum            = 54458
	revisionParameters          = 54459
)
