package unixsock

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestListen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sock")
	ln, err := Listen(t.Context(), path, Access{Mode: 0o620})
	if err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o620 {
		t.Errorf("got %v, %v", fi, err)
	}
	if _, err := Listen(t.Context(), path, Access{}); err == nil || !strings.HasSuffix(err.Error(), "is in use") {
		t.Errorf("second listener: got %v", err)
	}
	ln.(*net.UnixListener).SetUnlinkOnClose(false) // as a process that is killed
	ln.Close()
	ln, err = Listen(t.Context(), path, Access{})
	if err != nil {
		t.Fatalf("file that was left behind: %v", err)
	}
	ln.Close()
}

func TestErrors(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		path   string
		access Access
		want   string
	}{
		"file":      {file, Access{}, "is not a socket"},
		"directory": {filepath.Join(dir, "none", "sock"), Access{}, "no such file"},
		"user":      {filepath.Join(dir, "s1"), Access{User: "nobody-has-this-name"}, "unknown user"},
		"group":     {filepath.Join(dir, "s2"), Access{Group: "nobody-has-this-name"}, "unknown group"},
	} {
		if _, err := Listen(t.Context(), c.path, c.access); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
		if _, err := os.Stat(c.path); c.path != file && err == nil {
			t.Errorf("%s: the socket is left behind", name)
		}
	}
	if b, err := os.ReadFile(file); string(b) != "precious" || err != nil {
		t.Errorf("the file has %q, %v", b, err)
	}
}
