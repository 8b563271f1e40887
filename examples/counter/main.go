// Counter is a small API with long-polling: a value that goes up, and a way to
// wait for it. The program keeps no connection open and knows no client; the
// GRIP proxy in front of it does the waiting.
//
//	POST /value/        adds one
//	GET  /value/        the value
//	GET  /value/?last=N waits until the value is not N; {} if that takes too long
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/holdfast/holdfast/examples/internal/publish"
)

const channel = "counter"

func main() {
	listen := flag.String("listen", "127.0.0.1:8000", "`address` to listen on")
	control := flag.String("control", "http://127.0.0.1:5561", "`URL` of the proxy's control API")
	wait := flag.Duration("wait", 55*time.Second, "how long a client waits at most")
	flag.Parse()

	c := &counter{run: time.Now().UnixMilli(), wait: *wait, publisher: publish.Publisher{URL: *control}}
	http.HandleFunc("GET /value/{$}", c.get)
	http.HandleFunc("POST /value/{$}", c.post)
	ln, err := net.Listen("tcp", *listen)
	if err != nil {
		log.Fatal(err)
	}
	log.Printf("listening on %s", ln.Addr())
	log.Fatal(http.Serve(ln, nil))
}

type counter struct {
	run       int64 // tells the ids of this run from those of an earlier one
	wait      time.Duration
	publisher publish.Publisher

	mu    sync.Mutex
	value int
}

// id names a value towards the proxy.
func (c *counter) id(value int) string { return fmt.Sprintf("%d-%d", c.run, value) }

func (c *counter) get(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	value := c.value
	c.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	last := r.URL.Query().Get("last")
	if n, err := strconv.Atoi(last); last != "" && err != nil {
		http.Error(w, "last must be a number", http.StatusBadRequest)
		return
	} else if last == "" || n != value {
		reply(w, map[string]int{"value": value})
		return
	}
	// These lines are all there is to waiting: hold the client, answer it with
	// what is published to the channel, or with this response when the time is
	// over. Should the value change before the hold is in place, the proxy
	// sees that the published id does not follow prev-id, and asks again.
	w.Header().Set("Grip-Hold", "response")
	w.Header().Set("Grip-Channel", channel+"; prev-id="+c.id(value))
	w.Header().Set("Grip-Timeout", strconv.Itoa(int(c.wait.Seconds())))
	reply(w, struct{}{})
}

func (c *counter) post(w http.ResponseWriter, _ *http.Request) {
	c.mu.Lock()
	c.value++
	value := c.value
	c.mu.Unlock()
	body, err := json.Marshal(map[string]int{"value": value})
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	err = c.publisher.Publish(publish.Item{
		Channel: channel, ID: c.id(value), PrevID: c.id(value - 1),
		Formats: map[string]any{"http-response": map[string]any{
			"headers": map[string]string{"Content-Type": "application/json"},
			"body":    string(body) + "\n",
		}},
	})
	if err != nil {
		// The value has changed all the same; who waits will see it at the
		// next request.
		log.Print(err)
	}
	w.Header().Set("Content-Type", "application/json")
	reply(w, map[string]int{"value": value})
}

func reply(w http.ResponseWriter, v any) {
	if err := json.NewEncoder(w).Encode(v); err != nil {
		log.Print(err) // the proxy has gone
	}
}
