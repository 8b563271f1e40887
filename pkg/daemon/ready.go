package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"
)

// readyEvery is how often a process that starts is asked whether it is ready.
const readyEvery = 50 * time.Millisecond

// Ready is a service that tells the world when the process does its work, and
// when it stops.
type Ready struct {
	// Check returns nil when the process is ready; nil is always ready.
	Check func() error
	// File is created then, and removed when the process stops. "": none.
	File string
	// Socket is that of systemd (NOTIFY_SOCKET), for units with Type=notify. "":
	// none.
	Socket string
	// Logger is silent if nil.
	Logger *slog.Logger
}

// Run implements Service.Run. It must be the last service, so that it is the
// first to hear that the process stops.
func (r *Ready) Run(ctx context.Context) error {
	t := time.NewTicker(readyEvery)
	defer t.Stop()
	for r.Check != nil && r.Check() != nil {
		select {
		case <-t.C:
		case <-ctx.Done():
			return nil
		}
	}
	if r.File != "" {
		if err := os.WriteFile(r.File, fmt.Appendln(nil, os.Getpid()), 0o600); err != nil {
			r.warn(err)
		}
	}
	r.notify("READY=1")
	<-ctx.Done()
	r.notify("STOPPING=1")
	if r.File != "" {
		_ = os.Remove(r.File) // it may be gone with its directory
	}
	return nil
}

// notify sends one message of systemd's protocol (sd_notify(3)): a datagram to a
// unix socket, whose name begins with @ if it is an abstract one.
func (r *Ready) notify(state string) {
	if r.Socket == "" {
		return
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: r.Socket, Net: "unixgram"})
	if err == nil {
		_, err = conn.Write([]byte(state))
		_ = conn.Close()
	}
	if err != nil {
		r.warn(err)
	}
}

func (r *Ready) warn(err error) {
	if r.Logger != nil {
		r.Logger.Warn("telling that the process is ready", "err", err)
	}
}
