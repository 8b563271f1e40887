package proxy

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast/holdfast/pkg/frame"
)

func TestReload(t *testing.T) {
	a, b := newOrigin(t, answering(ok("", "a"))), newOrigin(t, answering(ok("", "b")))
	settled := make(chan time.Time)
	began := make(chan time.Duration, 10)
	r := newRig(t, "* "+a.addr, func(o *Options) {
		o.After = func(d time.Duration) <-chan time.Time { began <- d; return settled }
	})
	file := r.srv.opts.RoutesFile
	expect := func(body string) {
		t.Helper()
		if got := r.get("/"); got.body != body {
			t.Errorf("got %s %q, want %q", got.status(), got.body, body)
		}
	}
	// change makes a change, and another one while changes are gathered.
	change := func(f func() error) {
		t.Helper()
		if err := f(); err != nil {
			t.Fatal(err)
		}
		if d := within(t, began); d != time.Second {
			t.Errorf("changes are gathered for %s", d)
		}
		r.log.wait(t, "INFO routes file changed, reloading")
	}
	write := func(path, text string) func() error {
		return func() error { return os.WriteFile(path, []byte(text), 0o600) }
	}
	waitWatch(t, r, settled, began)
	expect("a")

	change(write(file, "* "+b.addr+"\nbad line\n"))
	expect("a") // not before it has settled
	if err := write(file, "* "+b.addr+"\nbad target\n* nothing\n")(); err != nil {
		t.Fatal(err)
	}
	settled <- time.Time{}
	r.log.wait(t, "WARN "+file+":2: target bad format")
	r.log.wait(t, "INFO routes loaded with 1 entries")
	expect("b")
	if len(began) > 0 {
		t.Error("a change was not gathered")
	}

	change(func() error {
		other := filepath.Join(filepath.Dir(file), "new")
		if err := write(other, "* "+a.addr)(); err != nil {
			return err
		}
		return os.Rename(other, file)
	})
	settled <- time.Time{}
	r.log.wait(t, "INFO routes loaded with 1 entries")
	expect("a")

	change(write(file, "junk\n\x00\x01\nmore junk, and more\n"))
	settled <- time.Time{}
	r.log.wait(t, "ERROR "+file+" has no line that is a route; the 1 routes from before stay in force")
	expect("a")

	change(func() error { return os.Remove(file) })
	settled <- time.Time{}
	r.log.wait(t, "ERROR unable to open routes file: "+file)
	expect("a") // what was in force stays

	change(write(file, "* "+b.addr))
	settled <- time.Time{}
	r.log.wait(t, "INFO routes loaded with 1 entries")
	expect("b")
}

// waitWatch waits until the directory is watched, which is when a change is
// noticed.
func waitWatch(t *testing.T, r *rig, settled chan time.Time, began chan time.Duration) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		now := time.Now()
		if err := os.Chtimes(r.srv.opts.RoutesFile, now, now); err != nil {
			t.Fatal(err)
		}
		// If the file is a link, the change was elsewhere: something has to
		// happen in the directory too.
		if err := os.WriteFile(r.srv.opts.RoutesFile+".other", nil, 0o600); err != nil {
			t.Fatal(err)
		}
		select {
		case <-began:
			r.log.wait(t, "reloading")
			settled <- time.Time{}
			r.log.wait(t, "routes loaded")
			return
		case <-time.After(10 * time.Millisecond):
			if now.After(deadline) {
				t.Fatal("routes file is not watched")
			}
		}
	}
}

func TestReloadThroughLink(t *testing.T) {
	settled := make(chan time.Time)
	began := make(chan time.Duration, 10)
	var data string
	r := newRig(t, "", func(o *Options) {
		dir := t.TempDir()
		// As Kubernetes mounts files: the name is a link to a name in a
		// directory that is a link itself, and only that one is replaced.
		v1, v2 := filepath.Join(dir, "v1"), filepath.Join(dir, "v2")
		for path, text := range map[string]string{v1: "* test", v2: "* test\nh test"} {
			if err := os.Mkdir(path, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(path, "routes"), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		data = filepath.Join(dir, "data")
		if err := os.Symlink(v1, data); err != nil {
			t.Fatal(err)
		}
		o.RoutesFile = filepath.Join(dir, "routes")
		if err := os.Symlink(filepath.Join(data, "routes"), o.RoutesFile); err != nil {
			t.Fatal(err)
		}
		o.After = func(d time.Duration) <-chan time.Time { began <- d; return settled }
	})
	r.log.wait(t, "INFO routes loaded with 1 entries")
	waitWatch(t, r, settled, began)
	next := data + ".next"
	if err := os.Symlink(filepath.Join(filepath.Dir(data), "v2"), next); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, data); err != nil {
		t.Fatal(err)
	}
	within(t, began)
	settled <- time.Time{}
	r.log.wait(t, "INFO routes loaded with 2 entries")
}

// A request keeps the route that it was given.
func TestReloadDuringRequest(t *testing.T) {
	release := make(chan struct{})
	o := newOrigin(t, func(*originRequest) (string, bool) {
		<-release
		return ok("Grip-Hold: stream\nGrip-Channel: c", "x"), true
	})
	r := newRig(t, "*,prefix=old- "+o.addr, nil)
	r.conn.open(frame.Request{URI: "/"})
	within(t, o.reqs)
	if err := os.WriteFile(r.srv.opts.RoutesFile, []byte("*,prefix=new- "+o.addr), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := r.srv.Reload(); err != nil {
		t.Fatal(err)
	}
	close(release)
	if a := within(t, r.handler.accepts); a.Channels[0].Name != "old-c" {
		t.Errorf("got %+v", a.Channels)
	}
}

func TestStartWithoutRoutesFile(t *testing.T) {
	r := newRig(t, "", func(o *Options) { o.RoutesFile += ".missing" })
	r.log.wait(t, "ERROR unable to open routes file: "+r.srv.opts.RoutesFile)
	if got := r.get("/"); got.body != "Route not found\n" {
		t.Errorf("got %s %q", got.status(), got.body)
	}
}

func TestRouteLines(t *testing.T) {
	r := newRig(t, "* nothing:1", func(o *Options) { o.Routes = []string{"* test", "h, x"} })
	r.log.wait(t, "WARN <route>:1: expecting prop")
	if got := r.get("/"); got.status() != "200 OK" {
		t.Errorf("got %s", got.status())
	}
}

func TestClientCertificateMissing(t *testing.T) {
	r := newRig(t, "* test\nh o:1,client_cert=/nonexistent/cert.pem", nil)
	r.log.wait(t, "routes:2: open /nonexistent/cert.pem")
	r.log.wait(t, "INFO routes loaded with 1 entries")
}

func TestUnsupportedIsLogged(t *testing.T) {
	r := newRig(t, "*,session,ipc_file_mode=1,wat test", nil)
	r.log.wait(t, "WARN route has something that is not supported")
	r.log.wait(t, "WARN route has something that is not supported")
	r.log.wait(t, "WARN route has something that is not supported")
}

func TestBadOptions(t *testing.T) {
	if _, err := New(Options{}); err == nil || !strings.Contains(err.Error(), "Bus is not set") {
		t.Errorf("got %v", err)
	}
}

// A file without one route is complained of, but not endlessly.
func TestJunkRoutes(t *testing.T) {
	r := newRig(t, strings.Repeat("junk\n", 100), nil)
	r.log.wait(t, "WARN 80 more lines of the routes file are wrong")
	r.log.wait(t, "has no line that is a route: every request gets 502 until it has")
	if got := r.get("/"); got.body != "Route not found\n" {
		t.Errorf("got %q", got.body)
	}
}
