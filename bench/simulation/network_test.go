package simulation

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"github.com/tailrace/tailrace/connectors/kafka"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// network is the virtual network of a world, with what real ones do: bytes take a while, links break with bytes on
// their way, and a host may be cut off such that what it sent arrives later, when it has long given up.
type network struct {
	virtual kfake.VirtualNetwork
	running sync.WaitGroup

	mu    sync.Mutex
	rng   *rand.Rand
	links map[*link]struct{}
	hung  map[string]chan struct{} // by host; closed when its bytes move again
	gone  map[string]bool          // hosts that are dead
	away  map[string]bool          // brokers, by address
	// seen is told, if it is not nil, of each request with its key before it goes on to the broker, and again when it has
	// arrived there.
	seen func(host string, key kmsg.Key, arrived bool)
}

func newNetwork(seed uint64) *network {
	return &network{
		rng: rand.New(rand.NewPCG(seed, 1)), links: map[*link]struct{}{}, hung: map[string]chan struct{}{},
		gone: map[string]bool{}, away: map[string]bool{},
	}
}

// watch has requests told.
func (n *network) watch(seen func(host string, key kmsg.Key, arrived bool)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.seen = seen
}

func (n *network) watching() func(host string, key kmsg.Key, arrived bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.seen
}

var errUnreachable = errors.New("unreachable")

// from is how a host dials.
func (n *network) from(host string) kafka.Dial {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		if err := n.wait(ctx, host); err != nil {
			return nil, err
		}
		n.mu.Lock()
		refused := n.gone[host] || n.away[address]
		n.mu.Unlock()
		if refused {
			return nil, &net.OpError{Op: "dial", Net: network, Err: errUnreachable}
		}
		server, err := n.virtual.DialContext(ctx, network, address)
		if err != nil {
			return nil, &net.OpError{Op: "dial", Net: network, Err: err}
		}
		client, near := net.Pipe()
		l := &link{network: n, host: host, broker: address, near: near, far: server, cut: make(chan struct{})}
		n.mu.Lock()
		n.links[l] = struct{}{}
		n.mu.Unlock()
		n.running.Go(l.run)
		return client, nil
	}
}

// wait blocks while a host is cut off.
func (n *network) wait(ctx context.Context, host string) error {
	for {
		gate := n.gate(host)
		if gate == nil {
			return nil
		}
		select {
		case <-gate:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (n *network) gate(host string) chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.hung[host]
}

// hang cuts a host off. What it sends waits.
func (n *network) hang(host string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.hung[host] == nil {
		n.hung[host] = make(chan struct{})
	}
}

// release lets a host's bytes go.
func (n *network) release(host string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if gate := n.hung[host]; gate != nil {
		delete(n.hung, host)
		close(gate)
	}
}

// kill ends a host. Of each link it is a matter of luck whether what was sent still arrives.
func (n *network) kill(host string) {
	n.mu.Lock()
	n.gone[host] = true
	n.mu.Unlock()
	n.breakLinks(func(l *link) bool { return l.host == host }, 0.5)
	n.release(host)
}

// lose takes a broker away, or brings it back.
func (n *network) lose(address string, away bool) {
	n.mu.Lock()
	n.away[address] = away
	n.mu.Unlock()
	if away {
		n.breakLinks(func(l *link) bool { return l.broker == address }, 0)
	}
}

// breakLinks breaks links. delivered is the share of those whose bytes arrive first.
func (n *network) breakLinks(which func(*link) bool, delivered float64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for l := range n.links {
		if which(l) {
			l.broken(n.rng.Float64() < delivered)
		}
	}
}

// latency is how long bytes take: mostly nothing to speak of, sometimes long.
func (n *network) latency() time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.rng.IntN(50) == 0 {
		return time.Duration(n.rng.IntN(400)) * time.Millisecond
	}
	return time.Duration(n.rng.IntN(3000)) * time.Microsecond
}

// link is one connection: two pipes, and what moves requests and answers between them.
//
// A request is taken when the one before has its answer. Requests behind each other on a link would make kafka-go wait
// in a mutex, in which virtual time stands still.
type link struct {
	network      *network
	host, broker string
	near, far    net.Conn
	once         sync.Once
	cut          chan struct{}
}

// broken breaks the link: at once, or when what the host sent has arrived.
func (l *link) broken(delivered bool) {
	_ = l.near.Close() // a pipe's Close can't fail
	if !delivered {
		l.once.Do(func() { close(l.cut) })
		_ = l.far.Close()
	}
}

func (l *link) run() {
	for l.pass(l.near, l.far, true) && l.pass(l.far, l.near, false) {
	}
	_ = l.near.Close()
	_ = l.far.Close()
	l.network.mu.Lock()
	delete(l.network.links, l)
	l.network.mu.Unlock()
}

// pass hands one frame from one end to the other, when it has arrived there.
func (l *link) pass(from, to net.Conn, request bool) bool {
	frame := make([]byte, 4)
	if _, err := io.ReadFull(from, frame); err != nil {
		return false
	}
	frame = append(frame, make([]byte, binary.BigEndian.Uint32(frame))...)
	if _, err := io.ReadFull(from, frame[4:]); err != nil {
		return false
	}
	tell := func(arrived bool) {
		if watch := l.network.watching(); request && watch != nil {
			watch(l.host, kmsg.Key(binary.BigEndian.Uint16(frame[4:])), arrived)
		}
	}
	tell(false)
	if !l.arrive() {
		return false
	}
	_, err := to.Write(frame)
	tell(true)
	return err == nil
}

// arrive waits as long as bytes take, and while the host is cut off. It is false if the link was cut meanwhile.
func (l *link) arrive() bool {
	delay := time.NewTimer(l.network.latency())
	defer delay.Stop()
	select {
	case <-delay.C:
	case <-l.cut:
		return false
	}
	for {
		gate := l.network.gate(l.host)
		if gate == nil {
			return true
		}
		select {
		case <-gate:
		case <-l.cut:
			return false
		}
	}
}
