//go:build e2e

package clients

import (
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast/holdfast/test/stack"
)

// ours is the handler, whose commands are for operators too.
func ours(t *testing.T) string {
	t.Helper()
	path, err := filepath.Abs("../../bin/handler")
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// "handler publish" can publish to Pushpin, and to Holdfast.
func TestHandlerPublish(t *testing.T) {
	s := proxy(t, testRoute)
	r := curlStream(t, s, "a")
	publish := func(spec string, args ...string) {
		t.Helper()
		if got := run(t, ours(t), append([]string{"publish", "--spec", spec}, args...)...); got != "Published\n" {
			t.Fatalf("it printed %q", got)
		}
	}
	eventually(t, func() { publish("http://"+s.Control, "a", "over http") }, r, "over http")
	publish("tcp://"+s.Push, "a", "over zmq")
	wantAmid(t, r, "over http", "over zmq")
	out, err := exec.Command(ours(t), "publish", "--spec", "http://"+s.Control+"/nowhere", "a", "x").CombinedOutput()
	if err == nil || string(out) != "Error: Not Found\n" {
		t.Errorf("publishing to a wrong path: %v, %q", err, out)
	}
	publish("http://"+s.Control, "--close", "a")
	if rest, err := r.ReadString('\n'); err != io.EOF {
		t.Fatalf("after the close: %q, %v", rest, err)
	}
}

// The doctor has no complaint about a Holdfast that runs.
func TestDoctor(t *testing.T) {
	if *target != "holdfast" {
		t.Skip("the target is not Holdfast, and the doctor examines nothing else")
	}
	s := stack.For(t, stack.Options{
		Kind: stack.Holdfast, Routes: []string{testRoute}, Set: []string{"proxy/sig_key=secret"},
	})
	out, err := exec.Command(ours(t), "doctor", "--config", s.Config).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "is served by connmgr\n") || !strings.Contains(string(out), "control API: answers 200 OK\n") {
		t.Errorf("%v\n%s", err, out)
	}
}

// The control API can be closed to those without a token.
func TestControlToken(t *testing.T) {
	if *target != "holdfast" {
		t.Skip("the target is not Holdfast, and Pushpin's control API has no tokens")
	}
	s := stack.For(t, stack.Options{
		Kind: stack.Holdfast, Routes: []string{testRoute},
		Set: []string{"handler/push_in_http_auth_iss=realm", "handler/push_in_http_auth_key=secret"},
	})
	r := curlStream(t, s, "a")
	good := "http://" + s.Control + "?iss=realm&key=secret"
	eventually(t, func() { run(t, ours(t), "publish", "--spec", good, "a", "hello") }, r, "hello")
	for _, spec := range []string{"http://" + s.Control, good + "x", "http://" + s.Control + "?iss=other&key=secret"} {
		out, err := exec.Command(ours(t), "publish", "--spec", spec, "a", "x").CombinedOutput()
		if err == nil || string(out) != "Error: Unauthorized\n" {
			t.Errorf("%s: %v, %q", spec, err, out)
		}
	}
}
