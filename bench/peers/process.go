//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/holdfast/holdfast/bench/internal/proc"
)

// group is the processes of one system, or of the origin.
type group struct {
	dir  string
	cmds []*exec.Cmd
}

// start runs a program in the group's directory, with its output in NAME.log.
func (g *group) start(name string, argv ...string) error {
	_, err := g.startWith(name, nil, argv...)
	return err
}

// startAddr runs a program whose first line of output is the address it listens
// on.
func (g *group) startAddr(name string, argv ...string) (netip.AddrPort, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return netip.AddrPort{}, err
	}
	defer r.Close()
	_, err = g.startWith(name, w, argv...)
	w.Close()
	if err != nil {
		return netip.AddrPort{}, err
	}
	if err := r.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return netip.AddrPort{}, err
	}
	line := make([]byte, 64)
	n, err := r.Read(line)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("%s: %w%s", name, err, g.tail(name))
	}
	return netip.ParseAddrPort(strings.TrimSpace(string(line[:n])))
}

func (g *group) startWith(name string, stdout *os.File, argv ...string) (*exec.Cmd, error) {
	log, err := os.Create(filepath.Join(g.dir, name+".log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = g.dir, log, log
	if stdout != nil {
		cmd.Stdout = stdout
	}
	// The main goroutine stays on the main thread, so this means: when this
	// program dies, however it dies, what it started ends as well.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	g.cmds = append(g.cmds, cmd)
	return cmd, nil
}

func (g *group) pids() []int {
	var all []int
	for _, c := range g.cmds {
		all = append(all, c.Process.Pid)
	}
	return all
}

// stop ends everything that the group has started, with all descendants: first
// politely, then not.
func (g *group) stop() {
	tree, err := proc.Tree(g.pids()...)
	if err != nil {
		tree = g.pids()
	}
	for i := len(g.cmds) - 1; i >= 0; i-- {
		_ = g.cmds[i].Process.Signal(syscall.SIGTERM)
	}
	done := make(chan struct{})
	go func() {
		for _, c := range g.cmds {
			_ = c.Wait() // how it ends does not matter any more
		}
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(8 * time.Second):
	}
	// Daemons put some children into groups of their own.
	for _, pid := range tree {
		if pid > 1 {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	<-done
	g.cmds = nil
}

// tail is the end of a program's output, for error messages.
func (g *group) tail(name string) string {
	b, err := os.ReadFile(filepath.Join(g.dir, name+".log"))
	if err != nil || len(bytes.TrimSpace(b)) == 0 {
		return ""
	}
	return "\n" + string(b[max(0, len(b)-1500):])
}

// freePorts returns n ports that nobody listens on. They lie below the range from
// which the kernel takes the client ports of ten thousand connections.
func freePorts(n int) ([]int, error) {
	var ports []int
	for p := 20100 + os.Getpid()%1000*8; p < 32000 && len(ports) < n; p++ {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", p))
		if err != nil {
			continue
		}
		l.Close()
		ports = append(ports, p)
	}
	if len(ports) < n {
		return nil, errors.New("no free ports")
	}
	return ports, nil
}

func local(port int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(port))
}

// waitFor asks for url until it is answered with 200.
func waitFor(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	client := &http.Client{Timeout: 3 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for {
		resp, err := client.Get(url)
		if err == nil {
			_, _ = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			if resp.StatusCode == 200 {
				return nil
			}
			err = fmt.Errorf("status %d", resp.StatusCode)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w", url, err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// waitListen waits until somebody listens at all of the addresses.
func waitListen(ctx context.Context, addrs ...netip.AddrPort) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for _, a := range addrs {
		for {
			c, err := net.Dial("tcp", a.String())
			if err == nil {
				c.Close()
				break
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("waiting for %s: %w", a, err)
			case <-time.After(100 * time.Millisecond):
			}
		}
	}
	return nil
}
