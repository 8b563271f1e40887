//go:build faults

package faults

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/test/stack"
)

// relay stands between the programs, at the places in the run directory where
// they look for each other's sockets, while they themselves listen elsewhere. It
// passes on what they say, message by message, unless told to do otherwise.
type relay struct {
	t *testing.T
	// fate is asked for each message, by one goroutine for each connection. It
	// may be replaced at any time.
	mu    sync.Mutex
	fate  func(*passing) fate
	conns map[net.Conn]bool // nil once closed
	lns   []net.Listener
	done  chan struct{}
	wg    sync.WaitGroup
}

// fate is what becomes of a message. The zero value: it is passed on.
type fate struct {
	delay time.Duration // it, and whatever comes after it on its connection
	again bool          // it comes twice
	late  bool          // and once more, after others have come
	drop  bool
	cut   bool // the connection ends in the middle of it
}

// passing is a message on its way.
type passing struct {
	frames []frame.Type // in it, if it is for an inbox
	n      int          // its number on its connection, from 1
}

// relayed starts a stack of which every message goes through a relay.
func relayed(t *testing.T, set []string, routes ...string) (*stack.Stack, *relay) {
	t.Helper()
	r := &relay{t: t, conns: map[net.Conn]bool{}, done: make(chan struct{})}
	t.Cleanup(r.close) // after the end of the programs
	return stack.For(t, stack.Options{
		Kind: stack.Holdfast, Routes: routes,
		Set: append([]string{
			"global/ipc_prefix=", "bus/inbox=ipc://{rundir}/own/{name}.in", "bus/pub=ipc://{rundir}/own/{name}.pub",
		}, set...),
		Prepare: func(dir string) error {
			if err := os.Mkdir(filepath.Join(dir, "own"), 0o700); err != nil {
				return err
			}
			for _, name := range []string{"connmgr.0", "proxy.0", "handler.0", "zurl.0"} {
				for _, suffix := range []string{".pub", ".in"} {
					if err := r.listen(dir, name, suffix); err != nil {
						return err
					}
				}
			}
			return nil
		},
	}), r
}

func (r *relay) listen(dir, name, suffix string) error {
	ln, err := net.Listen("unix", filepath.Join(dir, name+suffix))
	if err != nil {
		return err
	}
	r.lns = append(r.lns, ln)
	far := filepath.Join(dir, "own", name+suffix)
	r.wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			if r.enter(c) {
				r.wg.Go(func() { r.serve(c, far, name, suffix == ".pub") })
			}
		}
	})
	return nil
}

// enter takes a connection among those that close ends.
func (r *relay) enter(c net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.conns == nil {
		_ = c.Close()
		return false
	}
	r.conns[c] = true
	return true
}

func (r *relay) close() {
	r.mu.Lock()
	conns := r.conns
	r.conns = nil
	r.mu.Unlock()
	close(r.done)
	for _, ln := range r.lns {
		_ = ln.Close()
	}
	for c := range conns {
		_ = c.Close()
	}
	r.wg.Wait()
}

// set makes another fate hold from now on; nil passes everything on.
func (r *relay) set(f func(*passing) fate) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fate = f
}

// serve relays one connection. Nobody may be at home: then it is closed.
func (r *relay) serve(near net.Conn, path, name string, pub bool) {
	far, err := net.Dial("unix", path)
	if err == nil && !r.enter(far) {
		err = net.ErrClosed
	}
	end := func() {
		r.mu.Lock()
		delete(r.conns, near)
		if far != nil {
			delete(r.conns, far)
		}
		r.mu.Unlock()
		_ = near.Close()
		if far != nil {
			_ = far.Close()
		}
	}
	defer end()
	if err != nil {
		return
	}
	var back sync.WaitGroup
	back.Go(func() {
		defer end()
		r.pass(near, far, name, pub, pub)
	})
	r.pass(far, near, name, pub, !pub)
	end()
	back.Wait()
}

// pass relays one direction until either side ends. Only one direction has
// messages that are subject to fate; the other has subscriptions at most.
func (r *relay) pass(to, from net.Conn, name string, pub, subject bool) {
	br := bufio.NewReaderSize(from, 64<<10)
	var greeting [64]byte // ZMTP 3.0
	if _, err := io.ReadFull(br, greeting[:]); err != nil {
		return
	}
	if _, err := to.Write(greeting[:]); err != nil {
		return
	}
	var late []byte // a message to be repeated once others have passed
	for n := 0; ; {
		raw, parts, err := readMessage(br)
		if err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) && !errors.Is(err, io.ErrUnexpectedEOF) {
				var op *net.OpError
				if !errors.As(err, &op) {
					r.t.Errorf("relay of %s: %v", name, err)
				}
			}
			return
		}
		var f fate
		if subject && parts != nil {
			n++
			p := &passing{n: n}
			if !pub {
				if p.frames, err = readFrames(parts); err != nil {
					r.t.Errorf("message for %s: %v", name, err)
					return
				}
			}
			r.mu.Lock()
			if r.fate != nil {
				f = r.fate(p)
			}
			r.mu.Unlock()
		}
		if f.delay > 0 {
			select {
			case <-time.After(f.delay): // what is tested
			case <-r.done:
				return
			}
		}
		out := raw
		switch {
		case f.drop:
			continue
		case f.cut:
			out = raw[:len(raw)/2]
		case f.again:
			out = append(bytes.Clone(raw), raw...)
		}
		if n%10 == 0 && late != nil {
			out = append(bytes.Clone(late), out...)
			late = nil
		}
		if f.late && late == nil {
			late = raw
		}
		if _, err := to.Write(out); err != nil || f.cut {
			return
		}
	}
}

// readMessage reads a message of ZMTP with all its parts, or a command, of which
// parts is nil.
func readMessage(br *bufio.Reader) (raw []byte, parts [][]byte, err error) {
	for {
		flags, err := br.ReadByte()
		if err != nil {
			return nil, nil, err
		}
		raw = append(raw, flags)
		head := 1
		if flags&2 != 0 { // a long one
			head = 8
		}
		at := len(raw)
		raw = append(raw, make([]byte, head)...)
		if _, err := io.ReadFull(br, raw[at:]); err != nil {
			return nil, nil, err
		}
		size := uint64(raw[at])
		if head == 8 {
			size = binary.BigEndian.Uint64(raw[at:])
		}
		if size > 64<<20 {
			return nil, nil, fmt.Errorf("%d bytes announced", size)
		}
		at = len(raw)
		raw = append(raw, make([]byte, size)...)
		if _, err := io.ReadFull(br, raw[at:]); err != nil {
			return nil, nil, err
		}
		if flags&4 != 0 { // a command
			return raw, nil, nil
		}
		parts = append(parts, raw[at:])
		if flags&1 == 0 { // no more
			return raw, parts, nil
		}
	}
}

// readFrames finds out what is in a message for an inbox: the array that
// pkg/bus/envelope.go describes.
func readFrames(parts [][]byte) ([]frame.Type, error) {
	if len(parts) != 1 {
		return nil, fmt.Errorf("%d parts", len(parts))
	}
	dec := msgpack.NewDecoder(bytes.NewReader(parts[0]))
	if _, err := dec.DecodeArrayLen(); err != nil {
		return nil, err
	}
	for range 9 { // version, kind, name, boots, epochs, numbers
		if err := dec.Skip(); err != nil {
			return nil, err
		}
	}
	n, err := dec.DecodeArrayLen()
	if err != nil {
		return nil, err
	}
	var types []frame.Type
	for range n {
		b, err := dec.DecodeBytes()
		if err != nil {
			return nil, err
		}
		typ, err := frame.TypeOf(b)
		if err != nil {
			return nil, err
		}
		types = append(types, typ)
	}
	return types, nil
}
