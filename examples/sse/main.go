// Sse is a chat room in the browser, by Server-Sent Events. The program keeps
// no connection open; the GRIP proxy in front of it does.
//
//	GET  /          the page
//	GET  /events    the stream of messages
//	POST /messages  says something
package main

import (
	_ "embed"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/holdfast/holdfast/examples/internal/publish"
)

const channel = "room"

// kept is how many messages a client can catch up on.
const kept = 100

//go:embed index.html
var page []byte

func main() {
	listen := flag.String("listen", "127.0.0.1:8000", "`address` to listen on")
	control := flag.String("control", "http://127.0.0.1:5561", "`URL` of the proxy's control API")
	flag.Parse()

	r := &room{run: time.Now().UnixMilli(), publisher: publish.Publisher{URL: *control}}
	http.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		if _, err := w.Write(page); err != nil {
			log.Print(err)
		}
	})
	http.HandleFunc("GET /events", r.events)
	http.HandleFunc("POST /messages", r.say)
	ln, err := net.Listen("tcp", *listen)
	if err != nil {
		log.Fatal(err)
	}
	log.Printf("listening on %s", ln.Addr())
	log.Fatal(http.Serve(ln, nil))
}

type room struct {
	run       int64 // tells the ids of this run from those of an earlier one
	publisher publish.Publisher

	mu       sync.Mutex
	messages []string // the newest, oldest first
	count    int      // of all that were said
}

// id names the n-th message, towards browsers and the proxy alike.
func (r *room) id(n int) string { return fmt.Sprintf("%d-%d", r.run, n) }

// event is the n-th message as it goes over the wire.
func (r *room) event(n int, text string) string {
	data, err := json.Marshal(text) // so that line ends in it do no harm
	if err != nil {
		panic(err) // a string always marshals
	}
	return fmt.Sprintf("id: %s\ndata: %s\n\n", r.id(n), data)
}

// events answers with what the client has not seen, and asks the proxy to go on
// from there.
func (r *room) events(w http.ResponseWriter, req *http.Request) {
	// The proxy says in Grip-Last what a client has got when it asks on its
	// behalf; a browser that reconnects says it in Last-Event-ID.
	seen := req.Header.Get("Last-Event-ID")
	if _, id, ok := strings.Cut(req.Header.Get("Grip-Last"), "last-id="); ok {
		seen = id
	}
	r.mu.Lock()
	first := r.count - len(r.messages) // number of the message before the oldest
	for n := r.count; n > first; n-- {
		if seen == r.id(n) {
			first = n
		}
	}
	var body strings.Builder
	for n := first + 1; n <= r.count; n++ {
		body.WriteString(r.event(n, r.messages[n-1-(r.count-len(r.messages))]))
	}
	last := r.id(r.count)
	r.mu.Unlock()

	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("Grip-Hold", "stream")
	h.Set("Grip-Channel", channel+"; prev-id="+last)
	h.Set("Grip-Link", "</events>; rel=next")                     // where to ask if something was missed
	h.Set("Grip-Keep-Alive", `:\n\n; format=cstring; timeout=20`) // a comment, for proxies that end silent connections
	if _, err := io.WriteString(w, body.String()); err != nil {
		log.Print(err)
	}
}

func (r *room) say(w http.ResponseWriter, req *http.Request) {
	text, err := io.ReadAll(http.MaxBytesReader(w, req.Body, 10_000))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	r.mu.Lock()
	r.count++
	n := r.count
	r.messages = append(r.messages, string(text))
	if len(r.messages) > kept {
		r.messages = r.messages[1:]
	}
	r.mu.Unlock()
	err = r.publisher.Publish(publish.Item{
		Channel: channel, ID: r.id(n), PrevID: r.id(n - 1),
		Formats: map[string]any{"http-stream": map[string]string{"content": r.event(n, string(text))}},
	})
	if err != nil {
		// It is not lost: the proxy notices the gap at the next message.
		log.Print(err)
	}
	w.WriteHeader(http.StatusNoContent)
}
