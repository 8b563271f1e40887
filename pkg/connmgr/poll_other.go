//go:build unix && !linux

package connmgr

// poller is what there is on Linux only: elsewhere each held connection has a
// goroutine that waits for what the client sends, or for its end.
type poller struct{}

type interest uint32

const (
	interestInput interest = iota
	interestEnd
	interestGone
)

func newPoller() (*poller, error) { return nil, nil }

func (*poller) watch(*sock, uint64, interest, bool) bool { return false }

func (*poller) run(func(uint64, bool)) {}

func (*poller) close() {}
