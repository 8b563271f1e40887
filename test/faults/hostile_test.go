//go:build faults

package faults

import (
	"bufio"
	"bytes"
	"compress/flate"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast/holdfast/pkg/wsconn"
	"github.com/holdfast/holdfast/test/need"
	"github.com/holdfast/holdfast/test/poll"
	"github.com/holdfast/holdfast/test/stack"
)

// alive fails the test if one of the programs has died, has had a panic, or has
// more memory than hostile input may cost.
func alive(t *testing.T, s *stack.Stack, before []stack.Process) {
	t.Helper()
	if after := s.Processes(); len(after) != len(before) || fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("processes: %v before, %v after", before, after)
	}
	for _, p := range before {
		m, err := s.Metrics(p.Name + ".0")
		if err != nil {
			t.Error(err)
			continue
		}
		if rss := m["process_resident_memory_bytes"] / (1 << 20); rss > 300 {
			t.Errorf("%s has %.0f MB", p.Name, rss)
		}
		if n := stack.Total(m, "holdfast_"+p.Name+"_panics_total"); n != 0 {
			t.Errorf("%s: %v panics", p.Name, n)
		}
	}
}

func zmtpGreeting() []byte {
	return []byte("\xff\x00\x00\x00\x00\x00\x00\x00\x00\x7f\x03\x00NULL" + strings.Repeat("\x00", 48))
}

func zmtpReady(kind string) []byte {
	body := append([]byte("\x05READY\x0bSocket-Type\x00\x00\x00"), byte(len(kind)))
	body = append(append(body, kind...), "\x08Identity\x00\x00\x00\x00"...)
	return append([]byte{4, byte(len(body))}, body...)
}

// long is a ZMTP frame of that length, of which only the beginning is at hand.
func long(flags byte, n uint64, begin string) []byte {
	return append(binary.BigEndian.AppendUint64([]byte{flags | 2}, n), begin...)
}

func noise(rnd *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rnd.Uint32())
	}
	return b
}

// junk returns what is thrown at a socket, over connections of their own.
func junk(rnd *rand.Rand) [][]byte {
	deep := strings.Repeat("[", 100_000)
	all := [][]byte{
		nil, noise(rnd, 64<<10), bytes.Repeat([]byte{0xff}, 4096),
		[]byte("GET / HTTP/1.1\r\n" + strings.Repeat("A: b\r\n", 100_000)),
		[]byte("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
		append(zmtpGreeting(), noise(rnd, 4096)...),
		append(zmtpGreeting(), 4, 0xff, 5, 'R'),
		append(zmtpGreeting(), "\x04\x19\x05READY\x0bSocket-Type\xff\xff\xff\xffPUS"...), // a length that lies
		append(zmtpGreeting(), zmtpReady("NONSENSE")...),
		append(zmtpGreeting(), long(4, 1<<62, "\x05READY")...),
	}
	for _, kind := range []string{"PUSH", "PULL", "PUB", "SUB", "REQ", "REP", "DEALER", "ROUTER", "PAIR"} {
		hello := append(zmtpGreeting(), zmtpReady(kind)...)
		for _, frames := range [][]byte{
			nil, noise(rnd, 32<<10),
			{0, 0},
			{8, 0},
			{5, 0},
			long(0, 1<<63, "x"), long(0, 1<<40, "x"), long(0, 1<<20-1, "x"),
			bytes.Repeat([]byte{1, 1, 'x'}, 200_000),                                         // a message without an end
			bytes.Repeat([]byte{4, 6, 4, 'P', 'I', 'N', 'G', 0}, 20_000),                     // more PINGs than anybody answers
			append([]byte{1, 0}, long(0, uint64(len(deep)+1), "J"+deep)...),                  // deep JSON behind an envelope
			long(0, uint64(len(deep)+1), "J"+deep),                                           //
			[]byte("\x00\x0aT9999999:,\x00\x04T1:x\x00\x01T\x00\x01J"),                       // tnetstrings that lie
			append([]byte{1, 0, 0, 40}, "T36:4:type,6:cancel,2:id,1:x,4:from,1:y,}xxxx"...),  //
			append([]byte{0, 60}, bytes.Repeat([]byte{0xdd, 0xff, 0xff, 0xff, 0xff}, 12)...), // msgpack arrays of 2^32
			append([]byte{0, 255}, bytes.Repeat([]byte{0x91}, 255)...),                       // and nested ones
		} {
			all = append(all, append(bytes.Clone(hello), frames...))
		}
	}
	return all
}

// Junk on every socket that there is, those of the bus included: nobody dies,
// nobody grows, and clients and publishers are served all the while.
func TestJunkOnEverySocket(t *testing.T) {
	var specs []string
	for _, key := range []string{"in_spec", "in_stream_spec", "out_spec", "in_req_spec"} {
		port, err := stack.FreePort()
		if err != nil {
			t.Fatal(err)
		}
		specs = append(specs, fmt.Sprintf("zurl/%s=tcp://127.0.0.1:%d", key, port))
	}
	origin := newBackend(t)
	s := start(t, specs, "* "+origin.addr)
	one(t, s, "handler")
	before := s.Processes()
	c := hold(t, s, "a")
	until(t, c.Reader, "open")

	type target struct{ network, addr string }
	targets := []target{{"tcp", s.HTTP}, {"tcp", s.Control}, {"tcp", s.Push}, {"tcp", s.Sub}, {"tcp", s.Command}}
	for _, spec := range specs {
		_, addr, _ := strings.Cut(spec, "tcp://")
		targets = append(targets, target{"tcp", addr})
	}
	files, err := os.ReadDir(filepath.Join(s.Dir, "run"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if f.Type()&fs.ModeSocket != 0 {
			targets = append(targets, target{"unix", filepath.Join(s.Dir, "run", f.Name())})
		}
	}
	if len(targets) < 9+1+3*4 {
		t.Fatalf("only %v", targets)
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	all := junk(rnd)
	var thrown atomic.Int64
	var open sync.Map
	var wg sync.WaitGroup
	next := make(chan func())
	for range 32 {
		wg.Go(func() {
			for f := range next {
				f()
			}
		})
	}
	n := 0
	for _, b := range all {
		for _, at := range targets {
			next <- func() {
				nc, err := net.DialTimeout(at.network, at.addr, 20*time.Second)
				if err != nil {
					t.Errorf("%s: %v", at.addr, err)
					return
				}
				_ = nc.SetDeadline(time.Now().Add(5 * time.Second))
				_, _ = nc.Write(b) // it may be cut off in the middle
				thrown.Add(1)
				if rest := len(b) % 4; rest == 0 {
					_ = nc.Close()
				} else {
					open.Store(nc, nil) // and stays, with what it has begun
				}
			}
		}
		n++
		say(t, s, "a", n)
		until(t, c.Reader, fmt.Sprintf("message %d", n))
	}
	close(next)
	wg.Wait()
	t.Logf("%d connections with junk to %d sockets", thrown.Load(), len(targets))
	alive(t, s, before)
	open.Range(func(nc, _ any) bool { _ = nc.(net.Conn).Close(); return true })
	r := &reader{delays: new(delays)}
	visit(t.Context(), s, r)
	for _, text := range r.wrong {
		t.Error(text)
	}
	for _, p := range before {
		poll.Works(t, p.Name+" closes its files", func() error {
			m, err := s.Metrics(p.Name + ".0")
			if open := m["process_open_fds"]; err == nil && open >= 60 {
				err = fmt.Errorf("%v are open", open)
			}
			return err
		})
	}
	if err := s.Accounts(t.Context(), true); err != nil {
		t.Error(err)
	}
}

// rawOrigin answers each request with bytes by path, then with more and more of
// the same if they are to have no end.
func rawOrigin(t *testing.T, answers map[string][2]string) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	t.Cleanup(func() {
		_ = ln.Close()
		mu.Lock()
		for nc := range open {
			_ = nc.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	wg.Go(func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[nc] = true
			mu.Unlock()
			wg.Go(func() {
				defer nc.Close()
				br := bufio.NewReader(nc)
				for {
					req, err := http.ReadRequest(br)
					if err != nil {
						return
					}
					_, _ = io.Copy(io.Discard, req.Body)
					answer, ok := answers[req.URL.Path]
					if !ok {
						answer[0] = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood"
					}
					if _, err := io.WriteString(nc, answer[0]); err != nil {
						return
					}
					for more := []byte(strings.Repeat(answer[1], 1+8192/max(1, len(answer[1])))); answer[1] != ""; {
						if _, err := nc.Write(more); err != nil {
							return
						}
					}
				}
			})
		}
	})
	return ln.Addr().String()
}

func zipped(n int) string {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	zeros := make([]byte, 1<<20)
	for range n {
		_, _ = z.Write(zeros)
	}
	_ = z.Close()
	return b.String()
}

// Origins that answer what no origin should: the client gets an error or a cut
// response, others get theirs, and nothing of one answer reaches another request.
func TestHostileOrigins(t *testing.T) {
	const ok, events = "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\nContent-Type: application/websocket-events\r\n"
	const instruct = ok + "Content-Type: application/grip-instruct\r\n"
	body := func(head, s string) string { return fmt.Sprintf("%sContent-Length: %d\r\n\r\n%s", head, len(s), s) }
	channels := strings.Repeat(`{"name":"c"},`, 7000)
	names := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, `{"name":"%d"},`, i)
		}
		return b.String()
	}
	answers := map[string][2]string{
		"/endless-header":    {ok + "A: ", "x"},
		"/endless-fields":    {ok, "A: b\r\n"},
		"/endless-status":    {"HTTP/1.1 200 ", "x"},
		"/endless-1xx":       {"", "HTTP/1.1 103 Early\r\nLink: </a>\r\n\r\n"},
		"/endless-trailer":   {ok + "Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n", "A: b\r\n"},
		"/endless-extension": {ok + "Transfer-Encoding: chunked\r\n\r\n1;", "x"},
		"/long-body":         {ok + "Content-Length: 4\r\n\r\nfourHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbad", ""},
		"/body-of-204":       {"HTTP/1.1 204 No Content\r\nContent-Length: 40\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbad", ""},
		"/body-of-304":       {"HTTP/1.1 304 Not Modified\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbad", ""},
		"/two-answers":       {ok + "Content-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbad", ""},
		"/both-lengths":      {ok + "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbad", ""},
		"/two-lengths":       {ok + "Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx", ""},
		"/huge-chunk":        {ok + "Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n", ""},
		"/101":               {"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n", ""},
		"/split":             {ok + "A: b\rX-Bad: yes\r\nContent-Length: 0\r\n\r\n", ""},
		"/nul":               {ok + "A: b\x00c\r\nContent-Length: 0\r\n\r\n", ""},

		"/instruct-endless":  {instruct + "\r\n", "["},
		"/instruct-deep":     {body(instruct, strings.Repeat("[", 90_000)), ""},
		"/instruct-deep-obj": {body(instruct, `{"hold":`+strings.Repeat(`{"a":`, 15_000)), ""},
		"/instruct-number":   {body(instruct, `{"hold":{"mode":"stream","timeout":1e`+strings.Repeat("9", 90_000)+`,"channels":[{"name":"a"}]}}`), ""},
		"/instruct-digits":   {body(instruct, `{"response":{"code":`+strings.Repeat("9", 90_000)+`}}`), ""},
		"/instruct-same":     {body(instruct, `{"hold":{"mode":"response","channels":[`+channels+`{"name":"c"}],"timeout":-1}}`), ""},
		"/instruct-many":     {body(instruct, `{"hold":{"mode":"stream","channels":[`+names(6000)+`{"name":5}]}}`), ""},
		"/instruct-split":    {body(instruct, `{"response":{"headers":{"A":"b\r\nX-Bad: yes"},"body":"x"}}`), ""},
		"/instruct-name":     {body(instruct, `{"response":{"headers":[["A: b\r\nX-Bad","yes"]],"body":"x"}}`), ""},
		"/instruct-reason":   {body(instruct, `{"response":{"reason":"OK\r\nX-Bad: yes","body":"x"}}`), ""},
		"/instruct-zip":      {body(instruct+"Content-Encoding: gzip\r\n", zipped(200)), ""},
		"/header-commas":     {ok + "Grip-Hold: stream\r\nGrip-Channel: " + strings.Repeat(",", 30_000) + "\r\nContent-Length: 0\r\n\r\n", ""},
		"/header-quote":      {ok + "Grip-Hold: stream\r\nGrip-Channel: a; filter=\"" + strings.Repeat("\\", 30_000) + "\r\nContent-Length: 0\r\n\r\n", ""},
		"/header-status":     {ok + "Grip-Hold: response\r\nGrip-Status: 99999999999 x\r\nGrip-Channel: a\r\nContent-Length: 0\r\n\r\n", ""},
		"/stream-zip":        {body(ok+"Grip-Hold: stream\r\nGrip-Channel: a\r\nContent-Encoding: gzip\r\n", zipped(200)), ""},

		"/ws/endless":     {events + "\r\nOPEN\r\n", "TEXT 1\r\nx\r\n"},
		"/ws/huge":        {body(events, "OPEN\r\nTEXT ffffffff\r\nx\r\n"), ""},
		"/ws/sizes":       {body(events, "OPEN\r\nTEXT fffffffffffffffffffff\r\nx\r\n"), ""},
		"/ws/negative":    {body(events, "OPEN\r\nTEXT -1\r\nx\r\n"), ""},
		"/ws/no-line-end": {body(events, strings.Repeat("A", 500_000)), ""},
		"/ws/many":        {body(events, "OPEN\r\n"+strings.Repeat("PING\r\n", 150_000)), ""},
		"/ws/long-ping":   {body(events, "OPEN\r\nPING 200\r\n"+strings.Repeat("x", 512)+"\r\n"), ""},
		"/ws/twice":       {body(events, "OPEN\r\nOPEN\r\nOPEN\r\n"), ""},
		"/ws/close":       {body(events, "OPEN\r\nCLOSE 2\r\n\xff\xff\r\n"), ""},
		"/ws/bad-reason":  {body(events, "OPEN\r\nCLOSE 4\r\n\x03\xe8\xff\xff\r\n"), ""},
		"/ws/accepted":    {body(events+"Content-Bytes-Accepted: 99999999999999999999\r\n", "OPEN\r\n"), ""},
		"/ws/meta":        {body(events+strings.Repeat("Set-Meta-A: "+strings.Repeat("x", 200)+"\r\n", 200), "OPEN\r\n"), ""},
		"/ws/control":     {body(events+"Sec-WebSocket-Extensions: grip\r\n", "OPEN\r\nTEXT 30d44\r\nc:"+strings.Repeat("[", 200_002)+"\r\n"), ""},
		"/ws/zip":         {body(events+"Content-Encoding: gzip\r\n", zipped(200)), ""},
	}
	addr := rawOrigin(t, answers)
	s := start(t, []string{"proxy/connect_timeout=5"}, "* "+addr, "ws "+addr+",over_http")
	one(t, s, "handler")
	before := s.Processes()
	var wg sync.WaitGroup
	turn := make(chan struct{}, 8)
	for path := range answers {
		wg.Go(func() {
			turn <- struct{}{}
			defer func() { <-turn }()
			request := "GET " + path + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
			if strings.HasPrefix(path, "/ws/") {
				request = "GET " + path + " HTTP/1.1\r\nHost: ws\r\nUpgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
			}
			nc, err := net.Dial("tcp", s.HTTP)
			if err != nil {
				t.Errorf("%s: %v", path, err)
				return
			}
			defer nc.Close()
			_ = nc.SetDeadline(time.Now().Add(time.Minute))
			_, _ = io.WriteString(nc, request)
			// It may be held: then what counts is that there was an answer.
			var got bytes.Buffer
			br := bufio.NewReader(nc)
			for !bytes.HasSuffix(got.Bytes(), []byte("\r\n\r\n")) {
				line, err := br.ReadBytes('\n')
				got.Write(line)
				if err != nil {
					var ne net.Error
					if errors.As(err, &ne) && ne.Timeout() {
						t.Errorf("%s: no answer, only %.200q", path, got.String())
					}
					break
				}
			}
			if bytes.Contains(got.Bytes(), []byte("X-Bad: yes")) {
				t.Errorf("%s: split: %q", path, got.String())
			}
			for range 3 { // over whatever connections it left behind
				resp, err := http.Get("http://" + s.HTTP + "/good")
				if err != nil {
					t.Errorf("after %s: %v", path, err)
					return
				}
				b, err := io.ReadAll(resp.Body)
				_ = resp.Body.Close()
				if err != nil || string(b) != "good" {
					t.Errorf("after %s: %q, %v", path, b, err)
				}
			}
		})
	}
	wg.Wait()
	alive(t, s, before)
}

// A client sends a gigabyte in a megabyte: to an origin that is reached by
// requests it is too large, and one that is a WebSocket takes it as it can.
func TestZipBomb(t *testing.T) {
	var deflated bytes.Buffer
	z, err := flate.NewWriter(&deflated, flate.BestCompression)
	if err != nil {
		t.Fatal(err)
	}
	zeros := make([]byte, 1<<20)
	for range 1000 {
		_, _ = z.Write(zeros)
	}
	_ = z.Flush()
	bomb := bytes.TrimSuffix(deflated.Bytes(), []byte("\x00\x00\xff\xff"))
	message := append(binary.BigEndian.AppendUint64([]byte{0xc2, 0xff}, uint64(len(bomb))), 0, 0, 0, 0)
	message = append(message, bomb...)

	deaf, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer deaf.Close()
	go func() {
		for {
			nc, err := deaf.Accept()
			if err != nil {
				return
			}
			req, err := http.ReadRequest(bufio.NewReader(nc))
			if err == nil {
				fmt.Fprintf(nc, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n", wsconn.AcceptKey(req.Header.Get("Sec-WebSocket-Key")))
			}
			t.Cleanup(func() { _ = nc.Close() }) // it reads nothing
		}
	}()
	origin := newBackend(t)
	s := start(t, []string{"runner/allow_compression=true"}, "* "+origin.addr+",over_http", "deaf "+deaf.Addr().String())
	one(t, s, "handler")
	before := s.Processes()
	for i := range 20 {
		host := "x"
		if i%2 == 1 {
			host = "deaf"
		}
		nc, err := net.Dial("tcp", s.HTTP)
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		_ = nc.SetDeadline(time.Now().Add(time.Minute))
		fmt.Fprintf(nc, "GET /ws?channel=a HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Version: 13\r\n"+
			"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n", host)
		br := bufio.NewReader(nc)
		resp, err := http.ReadResponse(br, nil)
		if err != nil || resp.StatusCode != 101 || !strings.Contains(resp.Header.Get("Sec-WebSocket-Extensions"), "permessage-deflate") {
			t.Fatalf("%+v, %v", resp, err)
		}
		_ = nc.SetWriteDeadline(time.Now().Add(2 * time.Second)) // the deaf one need not take it
		_, _ = nc.Write(message)
		if host == "x" {
			head := make([]byte, 4)
			if _, err := io.ReadFull(br, head); err != nil || head[0] != 0x88 || binary.BigEndian.Uint16(head[2:]) != 1009 {
				t.Errorf("got %x, %v, want close 1009", head, err)
			}
		}
	}
	alive(t, s, before)
}

// Slow heads, slow bodies and slow readers come, more of them than there is room
// for. They are ended in time, and meanwhile a client that is not slow gets its
// answer, though not always at once.
func TestSlowClients(t *testing.T) {
	need.Program(t, "slowhttptest", "slowhttptest")
	const room, slow = 50, 150
	origin := newBackend(t)
	s := start(t, []string{
		fmt.Sprint("runner/client_maxconn=", room), "connmgr/header_timeout=5", "connmgr/body_timeout=5", "connmgr/write_timeout=5",
	}, "* "+origin.addr)
	one(t, s, "handler")
	before := s.Processes()
	metric := func(name string) float64 {
		m, err := s.Metrics("connmgr.0")
		if err != nil {
			t.Fatal(err)
		}
		return m["holdfast_connmgr_"+name]
	}
	for name, args := range map[string][]string{
		"header": {"-H", "-i", "2", "-u", "http://" + s.HTTP + "/plain"}, // each goes on, and is too late all the same
		"body":   {"-B", "-i", "30", "-u", "http://" + s.HTTP + "/plain"},
		"read":   {"-X", "-w", "1", "-y", "10", "-n", "30", "-z", "1", "-u", "http://" + s.HTTP + "/large"},
	} {
		t.Run(name, func(t *testing.T) {
			waited := metric("connections_waited_total")
			var out bytes.Buffer
			// They would stay for ten minutes.
			cmd := exec.CommandContext(t.Context(), "slowhttptest", append(args, "-c", fmt.Sprint(slow), "-r", fmt.Sprint(slow), "-l", "600", "-x", "10", "-p", "60")...)
			cmd.Stdout, cmd.Stderr = &out, &out
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- cmd.Wait() }()
			defer func() {
				_ = cmd.Process.Kill()
				<-ended
				if t.Failed() {
					t.Logf("slowhttptest:\n%s", out.Bytes())
				}
			}()
			poll.Until(t, "there is no room left", func() bool { return metric("connections_waited_total") > waited })
			served := 0
			poll.Works(t, "a good client is served", func() error {
				r := &reader{delays: new(delays)}
				visit(t.Context(), s, r)
				if len(r.wrong) == 0 {
					served++
				} else if served == 0 {
					return errors.New(r.wrong[0])
				}
				// Nobody but connmgr ends them.
				if n := metric("connections"); n > 1 {
					return fmt.Errorf("%d answers, and %v slow clients are left", served, n)
				}
				return nil
			})
			t.Logf("%v waited, %v turned away", metric("connections_waited_total")-waited, metric("connections_turned_away_total"))
		})
	}
	alive(t, s, before)
}

// What strangers send reaches the log in one line that cannot be taken for
// another, and does nothing to a terminal.
func TestLogInjection(t *testing.T) {
	origin := newBackend(t)
	s := start(t, []string{"runner/log_level=3"}, "* "+origin.addr)
	one(t, s, "handler")
	const evil = "/\u009b31mred\u202e\u2028[ERR]%0a%1b[2J"
	for _, request := range []string{
		"GET " + evil + " HTTP/1.1\r\nHost: x\r\nUser-Agent: \u009b2J\r\nConnection: close\r\n\r\n",
		"GET /\x1b[2J HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
	} {
		for _, addr := range []string{s.HTTP, s.Control} {
			nc, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			_ = nc.SetDeadline(time.Now().Add(time.Minute))
			_, _ = io.WriteString(nc, request)
			_, _ = io.Copy(io.Discard, nc)
			_ = nc.Close()
		}
	}
	post := func(body string) int {
		resp, err := http.Post("http://"+s.Control+"/publish/", "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	if code := post(`{"items":[{"channel":"a\n[ERR] 2026 forged\u001b[2J","id":"\r\n[ERR]","formats":{"http-stream":{"content":"x"}}}]}`); code != 200 {
		t.Errorf("publish: %d", code)
	}
	// Response splitting is refused where it is asked for.
	for _, format := range []string{
		`{"headers":{"A":"b\r\nX-Bad: yes"}}`, `{"headers":[["A\r\nX-Bad","yes"]]}`, `{"reason":"OK\r\nX-Bad: yes"}`, `{"headers":{"A":"b\u0000c"}}`,
	} {
		if code := post(`{"items":[{"channel":"a","formats":{"http-response":` + format + `}}]}`); code != 400 {
			t.Errorf("%s: %d, want 400", format, code)
		}
	}
	log := s.Log()
	if !strings.Contains(log, "31mred") {
		t.Error("the request is not in the log")
	}
	for line := range strings.Lines(log) {
		if !strings.HasPrefix(line, "[") && !strings.HasPrefix(line, "---") {
			t.Errorf("a line of its own: %q", line)
		}
		for _, r := range strings.TrimSuffix(line, "\n") {
			if r < ' ' || r >= 0x7f && r < 0xa0 || r == '\u202e' || r == '\u2028' {
				t.Errorf("%U in %q", r, line)
				break
			}
		}
	}
}
