// What an amqp091-go application asks of an AMQP 0-9-1 broker. It knows the URL and nothing else of the broker.
//
// Usage: go run . URL. One line a check; exit code 1 at the first that fails.
package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"reflect"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

const (
	wait     = 20 * time.Second // for any single event
	small    = 300              // messages with a short body
	prefetch = 10
)

var (
	run     = fmt.Sprintf("conformance.amqp091-go.%x", random(6))
	current = "connect" // the check that is being made
	moment  = time.Date(2024, 2, 29, 12, 30, 1, 0, time.UTC)
)

func random(n int) []byte {
	b := make([]byte, n)
	_, err := rand.Read(b)
	must(err)
	return b
}

func fail(format string, args ...any) {
	fmt.Printf("not ok %s: %s\n", current, fmt.Sprintf(format, args...))
	os.Exit(1)
}

func must(err error) {
	if err != nil {
		fail("%v", err)
	}
}

func value[T any](v T, err error) T {
	must(err)
	return v
}

func equal[T any](got, want T) {
	if !reflect.DeepEqual(got, want) {
		fail("got %.2000s, want %.2000s", fmt.Sprintf("%#v", got), fmt.Sprintf("%#v", want))
	}
}

func contains(text, part string) {
	if !strings.Contains(text, part) {
		fail("%q does not contain %q", text, part)
	}
}

// receive takes the next value of a channel, in time.
func receive[T any](from <-chan T, what string) T {
	select {
	case v, open := <-from:
		if !open {
			fail("the channel closed before: %s", what)
		}
		return v
	case <-time.After(wait):
		fail("no %s within %v", what, wait)
		panic("unreachable")
	}
}

// check makes one check under the time limit of several events.
func check(name string, body func()) {
	current = name
	late := time.AfterFunc(3*wait, func() { fail("not done within %v", 3*wait) })
	body()
	late.Stop()
	fmt.Println("ok", name)
}

func dial(url string, change func(*amqp.URI)) (*amqp.Connection, error) {
	if change != nil {
		uri := value(amqp.ParseURI(url))
		change(&uri)
		url = uri.String()
	}
	return amqp.DialConfig(url, amqp.Config{
		Dial: func(network, address string) (net.Conn, error) {
			conn, err := net.DialTimeout(network, address, wait)
			if err == nil {
				err = conn.SetDeadline(time.Now().Add(wait)) // lifted by the client after the handshake
			}
			return conn, err
		},
	})
}

// topology is source --e2e--> target --> queue.
type topology struct{ source, target, queue string }

func declare(ch *amqp.Channel) topology {
	t := topology{run + ".source", run + ".target", run + ".queue"}
	must(ch.ExchangeDeclare(t.source, amqp.ExchangeTopic, true, false, false, false, nil))
	must(ch.ExchangeDeclare(t.target, amqp.ExchangeDirect, true, false, false, false, nil))
	must(ch.ExchangeBind(t.target, "work.#", t.source, false, nil))
	equal(value(ch.QueueDeclare(t.queue, true, false, false, false, nil)), amqp.Queue{Name: t.queue})
	must(ch.QueueBind(t.queue, "work.item", t.target, false, nil))
	must(ch.QueueBind(t.queue, "work.other", t.target, false, nil))
	must(ch.QueueUnbind(t.queue, "work.other", t.target, nil))
	return t
}

func headers(seq int32) amqp.Table {
	return amqp.Table{
		"seq": seq, "text": "grüße", "octets": []byte{0, 255},
		"signed8": int8(-8), "unsigned8": byte(200), "int16": int16(-300), "int32": int32(-7), "int64": int64(1) << 40,
		"uint16": uint16(65535), "uint32": uint32(4294967295),
		"float": float32(1.5), "double": 2.5, "decimal": amqp.Decimal{Scale: 2, Value: 1234},
		"true": true, "nothing": nil, "time": moment,
		"list": []any{int32(1), "two", []any{int32(3)}}, "table": amqp.Table{"inner": amqp.Table{"deep": int32(1)}},
	}
}

// batch is the messages of the run, in order.
func batch() (messages []amqp.Publishing) {
	var bodies [][]byte
	for i := range small {
		bodies = append(bodies, fmt.Appendf(nil, "message %d", i))
	}
	bodies = append(bodies, []byte{}, random(1<<20), []byte("last"))
	for i, body := range bodies {
		messages = append(messages, amqp.Publishing{
			Headers: headers(int32(i)), ContentType: "application/octet-stream", ContentEncoding: "identity",
			DeliveryMode: uint8(1 + i%2), Priority: uint8(i % 5), CorrelationId: fmt.Sprint("c", i), ReplyTo: "nobody",
			Expiration: "600000", MessageId: fmt.Sprint("m", i), Timestamp: moment, Type: "test", AppId: "conformance",
			Body: body,
		})
	}
	return messages
}

func publish(ch *amqp.Channel, exchange string, messages []amqp.Publishing) {
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	must(ch.Confirm(false))
	var confirms []*amqp.DeferredConfirmation
	for _, m := range messages {
		confirms = append(confirms, value(ch.PublishWithDeferredConfirmWithContext(ctx, exchange, "work.item", true, false, m)))
	}
	for _, c := range confirms {
		equal(value(c.WaitContext(ctx)), true)
	}
}

func consume(ch *amqp.Channel, t topology, messages []amqp.Publishing) {
	must(ch.Qos(prefetch, 0, false))
	deliveries := value(ch.Consume(t.queue, "tag", false, false, false, false, nil))
	var got []amqp.Delivery
	for len(got) < len(messages) {
		d := receive(deliveries, "delivery")
		got = append(got, d)
		switch {
		case len(got) < prefetch:
		case len(got) == prefetch:
			equal(ready(ch, t.queue), len(messages)-prefetch)
			must(d.Ack(true))
		default:
			must(d.Ack(false))
		}
	}
	must(ch.Cancel("tag", false))
	for i, m := range messages {
		d := got[i]
		equal(d.Body, m.Body)
		equal([]any{d.DeliveryTag, d.Redelivered, d.ConsumerTag, d.Exchange, d.RoutingKey},
			[]any{uint64(i + 1), false, "tag", t.source, "work.item"})
		d.Timestamp = d.Timestamp.UTC()
		d.Headers["time"] = d.Headers["time"].(time.Time).UTC()
		same := amqp.Publishing{
			Headers: d.Headers, ContentType: d.ContentType, ContentEncoding: d.ContentEncoding,
			DeliveryMode: d.DeliveryMode, Priority: d.Priority, CorrelationId: d.CorrelationId, ReplyTo: d.ReplyTo,
			Expiration: d.Expiration, MessageId: d.MessageId, Timestamp: d.Timestamp, Type: d.Type, AppId: d.AppId,
			Body: d.Body,
		}
		equal(same, m)
	}
	equal(ready(ch, t.queue), 0)
}

// ready counts the messages that wait in the queue, asked of the broker.
func ready(ch *amqp.Channel, queue string) int {
	return value(ch.QueueDeclarePassive(queue, true, false, false, false, nil)).Messages
}

func send(ch *amqp.Channel, exchange, key string, m amqp.Publishing) {
	must(ch.PublishWithContext(context.Background(), exchange, key, false, false, m))
}

func redelivery(ch *amqp.Channel, queue string) {
	send(ch, "", queue, amqp.Publishing{Body: []byte("a")})
	send(ch, "", queue, amqp.Publishing{Body: []byte("b")})
	deliveries := value(ch.Consume(queue, "tag", false, false, false, false, nil))
	a, b := receive(deliveries, "first"), receive(deliveries, "second")
	must(a.Nack(false, true))
	again := receive(deliveries, "redelivery")
	must(b.Reject(false))
	must(again.Ack(false))
	equal([]bool{a.Redelivered, b.Redelivered, again.Redelivered}, []bool{false, false, true})
	equal([]string{string(a.Body), string(b.Body), string(again.Body)}, []string{"a", "b", "a"})
	must(ch.Cancel("tag", false))
	equal(ready(ch, queue), 0)
}

// requestReply uses direct reply-to: the reply queue is a name that the broker makes up.
func requestReply(conn *amqp.Connection, queue string) {
	client, server := value(conn.Channel()), value(conn.Channel())
	requests := value(server.Consume(queue, "", false, false, false, false, nil))
	replies := value(client.Consume("amq.rabbitmq.reply-to", "", true, false, false, false, nil))
	for i := range 5 {
		send(client, "", queue, amqp.Publishing{
			ReplyTo: "amq.rabbitmq.reply-to", CorrelationId: fmt.Sprint(i), Body: fmt.Append(nil, "ask ", i),
		})
		request := receive(requests, "request")
		contains(request.ReplyTo, "amq.rabbitmq.reply-to.")
		send(server, "", request.ReplyTo, amqp.Publishing{
			CorrelationId: request.CorrelationId, Body: bytes.ToUpper(request.Body),
		})
		must(request.Ack(false))
		reply := receive(replies, "reply")
		equal(reply.CorrelationId+" "+string(reply.Body), fmt.Sprintf("%d ASK %d", i, i))
	}
	must(server.Close())
	must(client.Close())
}

func mandatory(conn *amqp.Connection, exchange string) {
	ch := value(conn.Channel())
	returns := ch.NotifyReturn(make(chan amqp.Return, 2))
	must(ch.Confirm(false))
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	back := amqp.Publishing{MessageId: "r", Body: []byte("back")}
	confirm := value(ch.PublishWithDeferredConfirmWithContext(ctx, exchange, "nowhere", true, false, back))
	equal(value(confirm.WaitContext(ctx)), true)
	select {
	case r := <-returns: // The return comes before the confirm, so it is here already.
		equal(int(r.ReplyCode), amqp.NoRoute)
		equal([]string{r.ReplyText, r.Exchange, r.RoutingKey, r.MessageId, string(r.Body)},
			[]string{"NO_ROUTE", exchange, "nowhere", "r", "back"})
	default:
		fail("confirmed without being returned first")
	}
	confirm = value(ch.PublishWithDeferredConfirmWithContext(ctx, exchange, "nowhere", false, false, back))
	equal(value(confirm.WaitContext(ctx)), true)
	equal(len(returns), 0)
	must(ch.Close())
}

// channelClosed lets the broker close the channel that was provoked; the connection goes on with another.
func channelClosed(conn *amqp.Connection, code int, text string, provoke func(*amqp.Channel) error) {
	ch := value(conn.Channel())
	closed := ch.NotifyClose(make(chan *amqp.Error, 1))
	var e *amqp.Error
	if err := provoke(ch); !errors.As(err, &e) {
		fail("want an amqp.Error, got %v", err)
	}
	equal(receive(closed, "notice of the close").Code, e.Code)
	equal(e.Code, code)
	contains(e.Reason, text)
	must(value(conn.Channel()).Close())
}

func consumerCancelled(conn *amqp.Connection) {
	ch, other := value(conn.Channel()), value(conn.Channel())
	q := value(ch.QueueDeclare("", false, false, true, false, nil))
	contains(q.Name, "amq.gen-")
	cancelled := ch.NotifyCancel(make(chan string, 1))
	deliveries := value(ch.Consume(q.Name, "tag", false, true, false, false, nil))
	value(other.QueueDelete(q.Name, false, false, false))
	equal(receive(cancelled, "cancel notification"), "tag")
	select {
	case _, open := <-deliveries:
		equal(open, false)
	case <-time.After(wait):
		fail("deliveries still open after the cancel")
	}
	must(ch.Close())
	must(other.Close())
}

func get(ch *amqp.Channel, queue string) {
	fetch := func(autoAck bool) amqp.Delivery {
		d, ok, err := ch.Get(queue, autoAck)
		must(err)
		equal(ok, true)
		return d
	}
	_, ok, err := ch.Get(queue, false)
	must(err)
	equal(ok, false)
	send(ch, "", queue, amqp.Publishing{Body: []byte("one")})
	send(ch, "", queue, amqp.Publishing{Body: []byte("two")})
	first, second := fetch(false), fetch(true)
	must(first.Nack(false, true))
	again := fetch(false)
	must(again.Ack(false))
	equal([]string{string(first.Body), string(second.Body), string(again.Body)}, []string{"one", "two", "one"})
	equal([]uint32{first.MessageCount, second.MessageCount, again.MessageCount}, []uint32{1, 0, 0})
	equal([]bool{first.Redelivered, second.Redelivered, again.Redelivered}, []bool{false, false, true})
}

func tx(conn *amqp.Connection, queue string) {
	ch := value(conn.Channel())
	must(ch.Tx())
	send(ch, "", queue, amqp.Publishing{Body: []byte("undone")})
	equal(ready(ch, queue), 0)
	must(ch.TxRollback())
	send(ch, "", queue, amqp.Publishing{Body: []byte("done")})
	must(ch.TxCommit())
	equal(ready(ch, queue), 1)
	d, ok, err := ch.Get(queue, false)
	must(err)
	equal(ok, true)
	equal(string(d.Body), "done")
	must(d.Ack(false))
	must(ch.TxRollback()) // The ack is undone, the message is still unsettled.
	must(d.Ack(false))
	must(ch.TxCommit())
	must(ch.Close())
}

func purgeAndDelete(ch *amqp.Channel, t topology) {
	equal(ready(ch, t.queue), 0)
	for range 3 {
		send(ch, "", t.queue, amqp.Publishing{})
	}
	equal(value(ch.QueuePurge(t.queue, false)), 3)
	send(ch, "", t.queue, amqp.Publishing{})
	must(ch.ExchangeUnbind(t.target, "work.#", t.source, false, nil))
	equal(value(ch.QueueDelete(t.queue, false, false, false)), 1)
	equal(value(ch.QueueDelete(t.queue, false, false, false)), 0)
	must(ch.ExchangeDelete(t.target, false, false))
	must(ch.ExchangeDelete(t.source, false, false))
	must(ch.ExchangeDelete(t.source, false, false))
}

// refused dials and wants the error with this code and text.
func refused(url string, want amqp.Error, change func(*amqp.URI)) {
	_, err := dial(url, change)
	var e *amqp.Error
	if !errors.As(err, &e) {
		fail("want an amqp.Error, got %v", err)
	}
	equal(e.Code, want.Code)
	contains(e.Reason, want.Reason)
}

func heartbeat(url string) {
	separator := "?"
	if strings.Contains(url, "?") {
		separator = "&"
	}
	conn := value(dial(url+separator+"heartbeat=1", nil))
	equal(conn.Config.Heartbeat, time.Second)
	select { // The client gives up after three silent seconds and a broker after two; neither may.
	case err := <-conn.NotifyClose(make(chan *amqp.Error, 1)):
		fail("closed: %v", err)
	case <-time.After(5 * time.Second):
	}
	must(value(conn.Channel()).Close())
	must(conn.Close())
}

func main() {
	url := os.Args[1]
	var conn *amqp.Connection
	var ch *amqp.Channel
	var t topology
	messages := batch()
	check("connect", func() {
		conn = value(dial(url, nil))
		if c := conn.Config; c.ChannelMax == 0 || c.FrameSize < 8192 || c.Heartbeat == 0 {
			fail("tuned to %+v", c)
		}
		ch = value(conn.Channel())
	})
	check("declare and bind", func() { t = declare(ch) })
	check("publish with confirms", func() { publish(ch, t.source, messages) })
	check("consume with prefetch and acks", func() { consume(ch, t, messages) })
	check("requeue is redelivered", func() { redelivery(ch, t.queue) })
	check("direct reply-to", func() { requestReply(conn, t.queue) })
	check("mandatory return", func() { mandatory(conn, t.source) })
	check("404 closes the channel only", func() {
		missing := run + ".missing"
		channelClosed(conn, amqp.NotFound, "NOT_FOUND - no queue '"+missing+"' in vhost ", func(c *amqp.Channel) error {
			_, err := c.QueueDeclarePassive(missing, true, false, false, false, nil)
			return err
		})
	})
	check("406 closes the channel only", func() {
		text := "PRECONDITION_FAILED - inequivalent arg 'durable' for queue '" + t.queue + "' in vhost "
		channelClosed(conn, amqp.PreconditionFailed, text, func(c *amqp.Channel) error {
			_, err := c.QueueDeclare(t.queue, false, false, false, false, nil)
			return err
		})
	})
	check("consumer cancel notification", func() { consumerCancelled(conn) })
	check("basic.get", func() { get(ch, t.queue) })
	check("tx", func() { tx(conn, t.queue) })
	check("purge and delete", func() { purgeAndDelete(ch, t) })
	check("wrong password", func() {
		// The client does not announce authentication_failure_close, so it is told by a closed socket alone.
		refused(url, *amqp.ErrCredentials, func(u *amqp.URI) { u.Password = "wrong " + run })
	})
	check("unknown vhost", func() {
		want := amqp.Error{Code: amqp.NotAllowed, Reason: "vhost " + run + " not found"}
		refused(url, want, func(u *amqp.URI) { u.Vhost = run })
	})
	check("heartbeat", func() { heartbeat(url) })
	check("close", func() {
		must(ch.Close())
		must(conn.Close())
		equal(conn.IsClosed(), true)
	})
}
