//go:build kafka

package kafka

import (
	"testing"

	"github.com/tailrace/tailrace/connectors/kafka/kafkatest"
)

// apache is Apache Kafka in a Java process.
type apache struct{ *kafkatest.Broker }

func (a apache) addrs() []string    { return []string{a.Addr()} }
func (a apache) stop(t *testing.T)  { a.Stop(t) }
func (a apache) start(t *testing.T) { a.Start(t) }
func (a apache) stampsTimes() bool  { return true }

// Scenario: the whole suite against Apache Kafka.
// Guarantees: what the comment of each part says, on the broker that users run.
func TestApacheKafka(t *testing.T) { suite(t, apache{kafkatest.New(t, kafkatest.Config{})}) }
