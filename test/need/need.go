// Package need is for tests that need what a machine may lack. On such a machine
// they are skipped; where everything is to be tested, as .ci/run demands, they
// fail, so that nothing is left out unseen.
package need

import (
	"os"
	"os/exec"
	"sync"
	"testing"
)

// Everything is the environment variable that has tests fail for what is missing.
const Everything = "TEST_EVERYTHING"

// Missing ends a test because of something that this machine does not have. The
// text says what, and what is not tested for that reason.
func Missing(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv(Everything) != "" {
		t.Fatalf("with "+Everything+" set nothing may be missing: "+format, args...)
	}
	t.Skipf(format, args...)
}

// Program ends a test if there is no such program, which is in Debian's package.
func Program(t testing.TB, name, pkg string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		Missing(t, "%s is not installed (Debian: %s)", name, pkg)
	}
}

// python is Debian's own: others do not see the modules of its packages.
const python = "/usr/bin/python3"

var importsZMQ = sync.OnceValue(func() error { return exec.Command(python, "-c", "import zmq").Run() })

// PyZMQ returns the Python that has pyzmq, through which tests speak with libzmq,
// and ends the test if there is none.
func PyZMQ(t testing.TB) string {
	t.Helper()
	if err := importsZMQ(); err != nil {
		Missing(t, "there is no %s with the module zmq, so libzmq is not talked to (Debian: python3-zmq): %v", python, err)
	}
	return python
}
