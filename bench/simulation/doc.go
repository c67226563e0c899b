// Package simulation runs the real engine on virtual time: engines with the real Kafka source and publisher over an
// in-memory broker, against models of ClickHouse and of the state store that fail as the real ones do. A seed decides
// what is produced and what breaks when. In the end what is stored is compared with an undisturbed run over the same
// topic.
//
// Goroutines that are due at one instant run in any order, so a seed fixes the faults and their times, not every
// interleaving: a failing seed prints its journal, which says what happened.
//
// The tests take environment variables:
//
//	TAILRACE_SEEDS=500 go test ./bench/simulation -run TestSeeds -timeout 1h   500 seeds after the kept ones
//	TAILRACE_SEED=17 go test ./bench/simulation -run TestSeeds -v              one seed, with its journal
package simulation
