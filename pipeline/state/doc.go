// Package state is what survives a restart: the state of operators by key, the blobs that hold it together with what a
// checkpoint still has to send, the store that blobs lie in, and the few bytes that a commit in Kafka carries.
package state
