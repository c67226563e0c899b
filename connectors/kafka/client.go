package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	kafka "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/metadata"
	"github.com/tailrace/tailrace/connectors/credentials"
	"github.com/tailrace/tailrace/pipeline"
)

const clientID = "tailrace"

// metadataVersion is in every broker from 2.3 to 4.x, and says what the user may do.
const metadataVersion = 8

var errUnknownTopic = errors.New("topic does not exist")

// cluster dials the brokers and asks them where things are. It may be used from several goroutines.
type cluster struct {
	brokers []string
	timeout time.Duration
	tls     *credentials.TLS // nil: plaintext
	sasl    *SASL            // nil: no login
	network Dial             // nil: TCP
	ids     sync.Map         // topic to its topicID, as first seen
	settled atomic.Bool      // what the cluster is for has worked once: no door was closed
}

// dialer logs in over the connections that dial makes, which are [cluster.open]'s.
func (c *cluster) dialer(dial func(ctx context.Context, network, address string) (net.Conn, error)) *kafka.Dialer {
	return &kafka.Dialer{ClientID: clientID, Timeout: c.timeout, DialFunc: dial, SASLMechanism: c.mechanism(nil)}
}

// handshakeTime bounds a TLS handshake. A port without TLS may wait for the rest of what looks like a long request.
const handshakeTime = 5 * time.Second

// open is the one place where connections begin, encrypted if they are to be.
func (c *cluster) open(ctx context.Context, network, address string) (net.Conn, error) {
	dial := c.network
	if dial == nil {
		dial = (&net.Dialer{Timeout: c.timeout}).DialContext
	}
	conn, err := dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, min(c.timeout, handshakeTime))
	defer cancel()
	return c.tls.Client(ctx, conn, address)
}

// client is kafka-go's client for requests about topics, which must be given: the client asks for the metadata of
// all topics of the cluster otherwise, again and again. Its connections are closed with closeClient.
func (c *cluster) client(topics ...string) *kafka.Client {
	return &kafka.Client{
		Addr:    kafka.TCP(c.brokers...),
		Timeout: c.timeout,
		Transport: &kafka.Transport{
			Dial: c.open, DialTimeout: c.timeout, ClientID: clientID, MetadataTopics: topics, SASL: c.mechanism(nil),
		},
	}
}

// closeClient closes idle connections and forgets what the client knows about the cluster, so that the next request
// asks anew: the client itself would go on with a leader that has moved for seconds.
func closeClient(c *kafka.Client) { c.Transport.(*kafka.Transport).CloseIdleConnections() }

// dial connects to one broker, authenticated. What ctx ends is the dialling.
func (c *cluster) dial(ctx context.Context, address string) (net.Conn, *kafka.Conn, error) {
	var raw net.Conn
	d := c.dialer(func(ctx context.Context, network, address string) (net.Conn, error) {
		var err error
		raw, err = c.open(ctx, network, address)
		return raw, err
	})
	began := false
	d.SASLMechanism = c.mechanism(&began)
	conn, err := d.DialContext(ctx, "tcp", address)
	switch {
	case err == nil:
		return raw, conn, nil
	case began || errors.Is(err, kafka.UnsupportedSASLMechanism):
		return nil, nil, c.loginCause(address, err)
	}
	return nil, nil, c.diagnose(ctx, address, err)
}

// bounded gives conn a deadline and lets ctx cut it short, until the function returned is called.
func (c *cluster) bounded(ctx context.Context, conn net.Conn) (release func(), err error) {
	if err := conn.SetDeadline(time.Now().Add(c.timeout)); err != nil {
		return nil, err
	}
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(done)
		_ = conn.SetDeadline(past) // a connection that can't be interrupted is about to fail by itself
	})
	return func() {
		if !stop() {
			<-done
		}
	}, nil
}

var past = time.Unix(1, 0)

// ask sends one request to any broker and returns the answer of the first that gives one.
func (c *cluster) ask(ctx context.Context, version int16, req protocol.Message) (protocol.Message, error) {
	var faults []error
	for _, i := range rand.Perm(len(c.brokers)) {
		res, err := c.askBroker(ctx, c.brokers[i], version, req)
		if err == nil {
			return res, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		faults = append(faults, fmt.Errorf("%s: %w", c.brokers[i], err))
	}
	return nil, errors.Join(faults...)
}

func (c *cluster) askBroker(ctx context.Context, address string, version int16, req protocol.Message) (protocol.Message, error) {
	raw, _, err := c.dial(ctx, address)
	if err != nil {
		return nil, err
	}
	defer raw.Close()
	release, err := c.bounded(ctx, raw)
	if err != nil {
		return nil, err
	}
	res, err := protocol.RoundTrip(raw, version, 1, clientID, req)
	release()
	if err != nil {
		return nil, c.diagnose(ctx, address, err)
	}
	return res, nil
}

// topic is what the cluster says about a topic now.
type topic struct {
	leaders    map[int32]string // partition to its leader's address; "" if it has none
	operations int32            // bit n: the user may do what the protocol calls operation n
}

// partitions lists the partition numbers 0 to n-1.
func (t topic) partitions() []int {
	ids := make([]int, len(t.leaders))
	for i := range ids {
		ids[i] = i
	}
	return ids
}

// topic looks a topic up. The error wraps errUnknownTopic if it does not exist, pipeline.ErrConfig if the name is wrong,
// and a [credentials.Error] if a door is closed.
func (c *cluster) topic(ctx context.Context, name string) (topic, error) {
	m, err := c.ask(ctx, metadataVersion, &metadata.Request{TopicNames: []string{name}, IncludeTopicAuthorizedOperations: true})
	if err != nil {
		return topic{}, fmt.Errorf("topic %q: %w", name, err)
	}
	res := m.(*metadata.Response)
	if len(res.Topics) != 1 {
		return topic{}, fmt.Errorf("topic %q: want metadata of 1 topic, got %d", name, len(res.Topics))
	}
	info := res.Topics[0]
	switch err := kafka.Error(info.ErrorCode); err {
	case 0, kafka.LeaderNotAvailable:
	case kafka.UnknownTopicOrPartition:
		return topic{}, fmt.Errorf("topic %q on %s: %w", name, strings.Join(c.brokers, ", "), errUnknownTopic)
	case kafka.InvalidTopic:
		return topic{}, fmt.Errorf("%w: topic %q: %w", pipeline.ErrConfig, name, err)
	case kafka.TopicAuthorizationFailed:
		return topic{}, c.grant(err, "Describe", name, "")
	default:
		return topic{}, fmt.Errorf("topic %q: %w", name, err)
	}
	brokers := map[int32]string{}
	for _, b := range res.Brokers {
		brokers[b.NodeID] = net.JoinHostPort(b.Host, strconv.Itoa(int(b.Port)))
	}
	t := topic{leaders: make(map[int32]string, len(info.Partitions)), operations: info.TopicAuthorizedOperations}
	for _, p := range info.Partitions {
		t.leaders[p.PartitionIndex] = brokers[p.LeaderID]
	}
	return t, nil
}

// The pauses between retries.
const (
	backoffFirst = 50 * time.Millisecond // a leader election on a healthy cluster takes about this long
	backoffMost  = time.Second           // a broker that comes back is seen this fast
)

// backoff is the pause between retries of one thing.
type backoff struct{ last time.Duration }

func (b *backoff) reset() { b.last = 0 }

// wait sleeps for a random time between half the pause and the pause, which doubles. It returns ctx's error.
func (b *backoff) wait(ctx context.Context) error {
	b.last = min(max(2*b.last, backoffFirst), backoffMost)
	timer := time.NewTimer(b.last/2 + rand.N(b.last/2))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// outage says once that something fails, for each cause of a closed door anew, and once that it works again.
type outage struct {
	log   *slog.Logger
	what  string
	args  []any
	grace int // failures that are not worth a line, such as one closed connection
	fails int
	cause string
	board *troubles // may be nil
}

func (o *outage) failed(err error) {
	o.fails++
	cause := credentials.Cause(err)
	another := cause != o.cause && cause != "" && o.fails > o.grace
	if another || o.fails == o.grace+1 {
		o.cause = cause
	}
	if o.board != nil && o.fails > o.grace {
		o.board.set(o, fmt.Sprintf("%s %v: %v", o.what, o.args, err))
	}
	if (another || o.fails == o.grace+1) && o.log != nil {
		o.log.Warn(o.what+": retrying", append(o.args[:len(o.args):len(o.args)], "error", err)...)
	}
}

func (o *outage) works() {
	if o.fails == 0 {
		return
	}
	if o.fails > o.grace && o.log != nil {
		o.log.Info(o.what+": works again", append(o.args[:len(o.args):len(o.args)], "failures", o.fails)...)
	}
	o.end()
}

// end forgets the trouble of something that is no more.
func (o *outage) end() {
	o.fails, o.cause = 0, ""
	if o.board != nil {
		o.board.set(o, "")
	}
}

// troubles are the outages of a source at the moment. The zero value has none.
type troubles struct {
	mu   sync.Mutex
	text map[*outage]string
}

func (t *troubles) set(o *outage, text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.text == nil {
		t.text = map[*outage]string{}
	}
	if delete(t.text, o); text != "" {
		t.text[o] = text
	}
}

// first is the first of them in the order of the alphabet, so that it does not change from one look to the next, or "".
func (t *troubles) first() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.text) == 0 {
		return ""
	}
	return slices.Min(slices.Collect(maps.Values(t.text)))
}

// missingTries is how often a topic may be unknown before it does not exist: brokers learn of a new topic one by one.
const missingTries = 5

// refusedTries is how often a closed door is tried that may open by itself. See [credentials.Error].
const refusedTries = 3

// await looks a topic up until it is there. It retries what is transient; what is not wraps pipeline.ErrConfig.
func (c *cluster) await(ctx context.Context, name string, log *slog.Logger) (topic, error) {
	return c.awaitWith(ctx, name, log, nil)
}

// awaitWith is await with its trouble on a board.
func (c *cluster) awaitWith(ctx context.Context, name string, log *slog.Logger, board *troubles) (topic, error) {
	var pause backoff
	trouble := outage{log: log, what: "kafka brokers", args: []any{"brokers", c.brokers, "topic", name}, board: board}
	unknown, refused := 0, 0
	for {
		t, err := c.topic(ctx, name)
		switch {
		case err == nil && len(t.leaders) > 0:
			trouble.works()
			return t, nil
		case ctx.Err() != nil:
			return t, ctx.Err()
		case errors.Is(err, pipeline.ErrConfig):
			return t, err
		case errors.Is(err, errUnknownTopic):
			trouble.works()
			if unknown++; unknown == missingTries {
				return t, fmt.Errorf("%w: %w", pipeline.ErrConfig, err)
			}
		case credentials.Refused(err):
			if refused++; refused >= refusedTries || !credentials.Fresh(err) {
				if err := c.final(err); errors.Is(err, pipeline.ErrConfig) {
					return t, err
				}
				trouble.failed(err)
			}
		default:
			trouble.failed(err)
		}
		if err := pause.wait(ctx); err != nil {
			return t, err
		}
	}
}
