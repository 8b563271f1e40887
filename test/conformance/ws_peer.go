package main

import (
	"bufio"
	"context"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/holdfast/holdfast/test/stack"
)

// wsPeer names the target that is no proxy: the library "websockets" for
// Python. What the Peer cases ask of a proxy must be true of it as well.
const wsPeer stack.Kind = "ws-peer"

//go:embed ws_peer.py
var peerProgram string

func (r *runner) runPeer(ctx context.Context, cs []*Case) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// Debian's, whatever else is first in the path.
	cmd := exec.CommandContext(ctx, "/usr/bin/python3", "-c", peerProgram)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	port, err := bufio.NewReader(out).ReadString('\n')
	if err == nil {
		err = r.runWith(ctx, cs, &stack.Stack{Kind: wsPeer, HTTP: "127.0.0.1:" + strings.TrimSpace(port)}, nil)
	} else {
		err = fmt.Errorf("the server did not start: is Debian's python3-websockets there? %w", err)
	}
	_ = in.Close()
	if werr := cmd.Wait(); err == nil {
		err = werr
	}
	return err
}
