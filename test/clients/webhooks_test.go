//go:build e2e

package clients

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast/holdfast/test/stack"
)

// The receiver of the example subscribes, verifies with the reference library in
// JavaScript, and gets what is published.
func TestExampleWebhooks(t *testing.T) {
	s := proxyWith(t, []string{"zurl/allow=127.0.0.1"}, "* test")
	root, err := stack.FindRoot()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	text, err := os.ReadFile(filepath.Join(root, "examples/webhooks/receiver.mjs"))
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "receiver.mjs"), text, 0o600)
	}
	if err == nil {
		err = os.Symlink(filepath.Join(root, "test/clients/node_modules"), filepath.Join(dir, "node_modules"))
	}
	if err != nil {
		t.Fatal(err)
	}
	r := begin(t, command(t, "node", filepath.Join(dir, "receiver.mjs"), "--listen", "0", "--control", "http://"+s.Control))
	if got := line(t, r); got != "subscribed" {
		t.Fatalf("the receiver says %q", got)
	}
	handler := filepath.Join(root, "bin/handler")
	for i := range 5 {
		run(t, handler, "publish", "--spec", "http://"+s.Control, "--no-eol", fmt.Sprintf("orders-%d", i), fmt.Sprint("apples ", i))
	}
	for i := range 5 {
		if got := line(t, r); !strings.HasPrefix(got, fmt.Sprintf("message.published orders-%d ", i)) || !strings.Contains(got, fmt.Sprint(`"content":"apples `, i, `"`)) {
			t.Errorf("the receiver printed %q", got)
		}
	}
}
