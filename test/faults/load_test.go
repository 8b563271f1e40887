//go:build faults

package faults

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/holdfast/holdfast/pkg/bus"
	"github.com/holdfast/holdfast/pkg/wsevents"
	"github.com/holdfast/holdfast/test/poll"
	"github.com/holdfast/holdfast/test/stack"
)

// backend is an origin that has all messages of its channels, so that it can
// answer who asks for what came after one. It keeps nothing of its clients.
type backend struct {
	t    *testing.T
	addr string
	srv  *httptest.Server

	mu  sync.Mutex
	log map[string][]string // by channel; the message with number n is at n-1
}

func newBackend(t *testing.T) *backend {
	b := &backend{t: t, log: map[string][]string{}}
	b.srv = httptest.NewServer(b)
	t.Cleanup(b.stop)
	b.addr = b.srv.Listener.Addr().String()
	return b
}

func (b *backend) stop() {
	b.srv.CloseClientConnections()
	b.srv.Close()
}

// again starts a stopped backend at its address.
func (b *backend) again() {
	b.t.Helper()
	var ln net.Listener
	poll.Works(b.t, "the port to be free", func() (err error) { ln, err = net.Listen("tcp", b.addr); return err })
	b.srv = httptest.NewUnstartedServer(b)
	_ = b.srv.Listener.Close()
	b.srv.Listener = ln
	b.srv.Start()
}

// add appends a message and returns its number and text.
func (b *backend) add(channel string) (int, string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := len(b.log[channel]) + 1
	text := fmt.Sprintf("%s %d %d\n", channel, n, time.Now().UnixNano())
	b.log[channel] = append(b.log[channel], text)
	return n, text
}

// after returns the messages behind number n, and the number of the last one.
func (b *backend) after(channel string, n int) (string, int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := b.log[channel]
	return strings.Join(all[min(n, len(all)):], ""), max(n, len(all))
}

// forget removes a channel.
func (b *backend) forget(channel string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.log, channel)
}

// ServeHTTP implements http.Handler.
//
//	/plain               no hold
//	/large               no hold, and more than sockets keep
//	/stream?channel=     a stream
//	/follow?channel=&after=  a stream with a position and a next link
//	/poll?channel=&after=    a long poll with a position
//	/ws?channel=         WebSocket over HTTP: a subscription, and an echo
func (b *backend) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	channel := r.URL.Query().Get("channel")
	after, _ := strconv.Atoi(r.URL.Query().Get("after"))
	if last := r.Header.Get("Grip-Last"); last != "" {
		_, id, _ := strings.Cut(last, "last-id=")
		if n, err := strconv.Atoi(id); err == nil {
			after = n
		}
	}
	switch r.URL.Path {
	case "/plain":
		_, _ = io.Copy(io.Discard, r.Body)
		fmt.Fprintln(w, "plain")
	case "/large":
		_, _ = io.WriteString(w, strings.Repeat("large\n", 1<<20))
	case "/stream":
		w.Header().Set("Grip-Hold", "stream")
		w.Header().Set("Grip-Channel", channel)
		fmt.Fprintln(w, "open")
	case "/follow":
		text, last := b.after(channel, after)
		w.Header().Set("Grip-Hold", "stream")
		w.Header().Set("Grip-Channel", fmt.Sprintf("%s; prev-id=%d", channel, last))
		w.Header().Set("Grip-Link", fmt.Sprintf("</follow?channel=%s>; rel=next; timeout=5", channel))
		_, _ = io.WriteString(w, text)
	case "/poll":
		text, last := b.after(channel, after)
		if text == "" {
			w.Header().Set("Grip-Hold", "response")
			w.Header().Set("Grip-Channel", fmt.Sprintf("%s; prev-id=%d", channel, last))
			w.Header().Set("Grip-Timeout", "5")
		}
		_, _ = io.WriteString(w, text)
	case "/ws":
		b.events(w, r, channel)
	default:
		http.NotFound(w, r)
	}
}

func (b *backend) events(w http.ResponseWriter, r *http.Request, channel string) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the proxy was killed
	}
	events, err := wsevents.Decode(body)
	if err != nil {
		b.t.Errorf("the origin got %q: %v", body, err)
	}
	var out []byte
	for _, e := range events {
		switch e.Type {
		case wsevents.Open:
			w.Header().Set("Sec-WebSocket-Extensions", "grip")
			out = wsevents.Append(out, e)
			sub := fmt.Sprintf(`c:{"type":"subscribe","channel":%q}`, channel)
			out = wsevents.Append(out, wsevents.Event{Type: wsevents.Text, Content: []byte(sub)})
		case wsevents.Text:
			out = wsevents.Append(out, wsevents.Event{Type: wsevents.Text, Content: append([]byte("m:"), e.Content...)})
		case wsevents.Close:
			out = wsevents.Append(out, e)
		}
	}
	w.Header().Set("Content-Type", wsevents.ContentType)
	_, _ = w.Write(out)
}

// reader is the log of one client's messages and the judge of their order.
type reader struct {
	name    string
	channel string
	strict  bool // every message, from the first one on
	polite  bool // its connection may end, as long as it ends in order
	delays  *delays

	mu    sync.Mutex
	last  int
	lost  int // numbers that were skipped
	gaps  int // runs of them
	wrong []string
	done  bool
}

func (r *reader) fault(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.note(format, args...)
}

func (r *reader) note(format string, args ...any) {
	if len(r.wrong) < 5 {
		r.wrong = append(r.wrong, time.Now().Format("15:04:05.000 ")+fmt.Sprintf(format, args...))
	}
}

// take judges one message.
func (r *reader) take(line string) {
	var channel string
	var n int
	var at int64
	if _, err := fmt.Sscanf(line, "%s %d %d", &channel, &n, &at); err != nil || channel != r.channel {
		r.fault("unreadable: %q", line)
		return
	}
	r.delays.add(time.Since(time.Unix(0, at)))
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.last == 0 || n == r.last+1:
	case n == r.last:
		r.note("%d came twice", n)
		return
	case n < r.last:
		r.note("%d came after %d", n, r.last)
		return
	default:
		r.gaps++
		r.lost += n - r.last - 1
		if r.strict {
			r.note("%d came after %d", n, r.last)
		}
	}
	r.last = n
}

func (r *reader) position() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.last
}

// delays collects how long messages took.
type delays struct {
	mu  sync.Mutex
	all []time.Duration
}

func (d *delays) add(t time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.all) < 5_000_000 {
		d.all = append(d.all, t)
	}
}

// stream reads a stream to its end.
func (r *reader) stream(ctx context.Context, s *stack.Stack, path string, ready func()) {
	req, err := newGet(ctx, "http://"+s.HTTP+path)
	if err != nil {
		r.fault("%v", err)
		return
	}
	resp, err := streams.Do(req)
	if err != nil {
		if ctx.Err() == nil {
			r.fault("%v", err)
		}
		return
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(resp.Body)
		r.fault("%s: %q", resp.Status, text)
		return
	}
	br := bufio.NewReader(resp.Body)
	for {
		line, err := br.ReadString('\n')
		if err != nil {
			if ctx.Err() == nil && (!r.polite || !errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || line != "") {
				r.fault("the stream ended: %v, %q", err, line)
			}
			return
		}
		if ready != nil {
			ready()
			ready = nil
		}
		if line != "open\n" {
			r.take(line)
		}
	}
}

func newGet(ctx context.Context, url string) (*http.Request, error) {
	return http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
}

// streams is a client without limits of its own.
var streams = &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DisableCompression: true}}

// poll asks again and again for what came after its last message.
func (r *reader) poll(ctx context.Context, s *stack.Stack) {
	hc := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1}}
	defer hc.CloseIdleConnections()
	for ctx.Err() == nil {
		req, err := newGet(ctx, fmt.Sprintf("http://%s/poll?channel=%s&after=%d", s.HTTP, r.channel, r.position()))
		if err != nil {
			r.fault("%v", err)
			return
		}
		resp, err := hc.Do(req)
		if err != nil {
			if ctx.Err() == nil {
				r.fault("%v", err)
			}
			return
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if ctx.Err() != nil {
			return
		}
		if err != nil || resp.StatusCode != http.StatusOK {
			r.fault("%s: %q, %v", resp.Status, body, err)
			return
		}
		for line := range bytes.Lines(body) {
			r.take(string(line))
		}
	}
}

// socket is a WebSocket that gets publications and echoes. It returns how many
// echoes came more than once.
func (r *reader) socket(ctx context.Context, s *stack.Stack, ready func()) (twice int) {
	ws, resp, err := websocket.DefaultDialer.DialContext(ctx, "ws://"+s.HTTP+"/ws?channel="+r.channel, nil)
	if err != nil {
		if ctx.Err() == nil {
			r.fault("%v %+v", err, resp)
		}
		return
	}
	stop := context.AfterFunc(ctx, func() { _ = ws.Close() })
	defer stop()
	defer func() { _ = ws.Close() }()
	ready()
	var sender sync.WaitGroup
	defer sender.Wait()
	ended := make(chan struct{})
	defer close(ended)
	sender.Go(func() {
		t := time.NewTicker(50 * time.Millisecond)
		defer t.Stop()
		for n := 1; ; n++ {
			if ws.WriteMessage(websocket.TextMessage, fmt.Appendf(nil, "echo %d", n)) != nil {
				return // the reader tells
			}
			select {
			case <-t.C:
			case <-ended:
				return
			}
		}
	})
	for echo := 0; ; {
		_, b, err := ws.ReadMessage()
		if err != nil {
			if ctx.Err() == nil && !(r.polite && websocket.IsCloseError(err, websocket.CloseGoingAway, websocket.CloseServiceRestart)) {
				r.fault("the WebSocket ended: %v", err)
			}
			return twice
		}
		text, isEcho := strings.CutPrefix(string(b), "echo ")
		if !isEcho {
			r.take(string(b))
			continue
		}
		switch n, err := strconv.Atoi(text); {
		case err != nil:
			r.fault("message %q", b)
		case n == echo+1:
			echo = n
		case n <= echo:
			twice++
		default:
			r.fault("echo %d came after %d", n, echo)
			echo = n
		}
	}
}

// poster publishes over HTTP: what is not answered is sent again.
func poster(ctx context.Context, s *stack.Stack, channel string, n int, text string) error {
	body := `{"items":[` + item(channel, n, text) + `]}`
	for {
		resp, err := posts.Post("http://"+s.Control+"/publish/", "application/json", strings.NewReader(body))
		if err == nil {
			answer, _ := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			switch {
			case resp.StatusCode == http.StatusOK:
				return nil
			case resp.StatusCode != http.StatusServiceUnavailable:
				return fmt.Errorf("publishing: %s: %s", resp.Status, answer)
			case resp.Header.Get("Retry-After") == "":
				return errors.New("503 without Retry-After")
			}
		}
		select {
		case <-time.After(10 * time.Millisecond): // then ask again
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

var posts = &http.Client{Transport: &http.Transport{
	DisableKeepAlives: true,
	DialContext:       (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
}, Timeout: 30 * time.Second}

func item(channel string, n int, text string) string {
	return fmt.Sprintf(`{"channel":%q,"id":"%d","prev-id":"%d","formats":{"http-stream":{"content":%q},"http-response":{"body":%q},"ws-message":{"content":%q}}}`,
		channel, n, n-1, text, text, strings.TrimSuffix(text, "\n"))
}

// publishers returns sockets that publish over ZeroMQ, until the test ends.
func publishers(t *testing.T, s *stack.Stack) (*bus.Push, *bus.Pub) {
	t.Helper()
	push, err := bus.NewPush(bus.SocketOptions{Name: "push", Connect: []string{"tcp://" + s.Push}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = push.Close() })
	pub, err := bus.NewPub(bus.SocketOptions{Name: "pub", Connect: []string{"tcp://" + s.Sub}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pub.Close() })
	return push, pub
}
