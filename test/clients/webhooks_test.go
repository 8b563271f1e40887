//go:build e2e

package clients

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/holdfast/holdfast/test/stack"
)

// webhookPlace is a copy of what the commands of the documents name, for a proxy
// of its own: the example with its modules, and bin/.
func webhookPlace(t *testing.T) (dir string) {
	t.Helper()
	root, err := stack.FindRoot()
	if err != nil {
		t.Fatal(err)
	}
	dir = t.TempDir()
	example := filepath.Join(dir, "examples/webhooks")
	if err := os.MkdirAll(example, 0o700); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(root, "examples/webhooks/receiver.mjs"))
	if err == nil {
		err = os.WriteFile(filepath.Join(example, "receiver.mjs"), text, 0o600)
	}
	if err == nil {
		err = os.Symlink(filepath.Join(root, "test/clients/node_modules"), filepath.Join(example, "node_modules"))
	}
	if err == nil {
		err = os.Symlink(filepath.Join(root, "bin"), filepath.Join(dir, "bin"))
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// The receiver of the example subscribes, verifies with the reference library in
// JavaScript, and gets what is published.
func TestExampleWebhooks(t *testing.T) {
	s := proxyWith(t, []string{"zurl/allow=127.0.0.1"}, "* test")
	dir := webhookPlace(t)
	r := begin(t, command(t, "node", filepath.Join(dir, "examples/webhooks/receiver.mjs"), "--listen", "0", "--control", "http://"+s.Control))
	if got := line(t, r); got != "subscribed" {
		t.Fatalf("the receiver says %q", got)
	}
	for i := range 5 {
		run(t, filepath.Join(dir, "bin/handler"), "publish", "--spec", "http://"+s.Control, "--no-eol", fmt.Sprintf("orders-%d", i), fmt.Sprint("apples ", i))
	}
	for i := range 5 {
		if got := line(t, r); !strings.HasPrefix(got, fmt.Sprintf("message.published orders-%d ", i)) || !strings.Contains(got, fmt.Sprint(`"content":"apples `, i, `"`)) {
			t.Errorf("the receiver printed %q", got)
		}
	}
}

// The commands of the documents about webhooks, in their order and literally but
// for ports. What the test does not know, it refuses: a new command wants a line
// here.
func TestWebhookCommands(t *testing.T) {
	root, err := stack.FindRoot()
	if err != nil {
		t.Fatal(err)
	}
	for _, document := range []string{"README.md", "examples/webhooks/README.md", "docs/webhooks.md"} {
		t.Run(document, func(t *testing.T) {
			text, err := os.ReadFile(filepath.Join(root, document))
			if err != nil {
				t.Fatal(err)
			}
			m := regexp.MustCompile("(?s)<!-- test: webhooks -->\n```(?:sh)?\n(.*?)```").FindSubmatch(text)
			if m == nil {
				t.Fatal("no block that is marked as a test")
			}
			dir := webhookPlace(t)
			var s *stack.Stack
			var receiver *bufio.Reader
			if !strings.Contains(string(m[1]), "scripts/holdfast") {
				s = proxyWith(t, nil, "* test") // of the document before
			}
			shell := func(text string) string {
				cmd := exec.CommandContext(t.Context(), "bash", "-c", text)
				cmd.Dir, cmd.Env = dir, append(os.Environ(), "GRIP_URL=http://"+s.Control)
				out, err := cmd.CombinedOutput()
				if err != nil {
					t.Fatalf("%s: %v\n%s", text, err, out)
				}
				return string(out)
			}
			endpoint := "example"
			for text := range strings.Lines(string(m[1])) {
				text, _, _ = strings.Cut(text, "#")
				text = strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(text), "&"))
				words := strings.Fields(text)
				switch {
				case text == "make build", strings.HasPrefix(text, "npm install "): // done
				case words[0] == "scripts/holdfast":
					var set []string
					for i, w := range words {
						if w == "--set" {
							set = append(set, strings.Replace(words[i+1], ".", "/", 1))
						}
					}
					s = proxyWith(t, set, "* test")
				case words[0] == "node":
					cmd := command(t, "node", append(words[1:], "--listen", "0", "--control", "http://"+s.Control)...)
					cmd.Dir = dir
					receiver = begin(t, cmd)
					want(t, receiver, "subscribed")
				case strings.HasPrefix(text, "bin/handler publish "):
					if got := shell(text); got != "Published\n" {
						t.Errorf("%s: printed %q", text, got)
					}
					if receiver != nil {
						if got := line(t, receiver); !strings.HasPrefix(got, "message.published orders-7 ") || !strings.Contains(got, "two apples") {
							t.Errorf("the receiver printed %q", got)
						}
					}
				case strings.HasPrefix(text, "bin/handler webhooks create "):
					var made struct{ ID, Secret string }
					if err := json.Unmarshal([]byte(shell(text)), &made); err != nil || !strings.HasPrefix(made.Secret, "whsec_") {
						t.Fatalf("%s: %+v, %v", text, made, err)
					}
					endpoint = made.ID
				case strings.HasPrefix(text, "bin/handler webhooks attempts "):
					deadline := time.Now().Add(20 * time.Second)
					for got := ""; receiver != nil && !strings.Contains(got, "delivered"); {
						if got = shell(strings.Replace(text, "ep_…", endpoint, 1)); time.Now().After(deadline) {
							t.Fatalf("%s: printed %q", text, got)
						}
					}
					shell(strings.Replace(text, "ep_…", endpoint, 1))
				default:
					t.Errorf("the document has a command that is not tested: %s", text)
				}
			}
		})
	}
}
