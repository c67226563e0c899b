package kafka

import (
	"context"
	"net"
)

// Dial makes a connection to a broker, as [net.Dialer.DialContext] does.
type Dial func(ctx context.Context, network, address string) (net.Conn, error)

// Through has connections made by dial instead of over TCP. It comes before Next.
func (s *Source) Through(dial Dial) { s.cluster.network = dial }

// Through has connections made by dial instead of over TCP. It comes before Open.
func (p *Publisher) Through(dial Dial) { p.producer.cluster.network = dial }
