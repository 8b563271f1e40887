package stack

import (
	"os"
	"path/filepath"
	"testing"
)

// No port is given out twice.
func TestFreePort(t *testing.T) {
	seen := map[int]bool{}
	for range 3000 {
		p, err := FreePort()
		if err != nil {
			t.Fatal(err)
		}
		if seen[p] {
			t.Fatalf("port %d twice", p)
		}
		seen[p] = true
	}
}

// Settings replace others, and those of any section are written.
func TestConfig(t *testing.T) {
	base := [][2]string{{"global/rundir", "run"}, {"proxy/debug", "false"}}
	file := filepath.Join(t.TempDir(), "conf")
	if err := new(Stack).config(file, base, []string{"admin/proxy=0", "proxy/debug=true", "global/x=a=b"}); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if want := "[global]\nrundir=run\nx=a=b\n[proxy]\ndebug=true\n[admin]\nproxy=0\n"; string(got) != want {
		t.Errorf("got %q, want %q", got, want)
	}
	for _, set := range []string{"proxy/debug", "debug=true"} {
		if err := new(Stack).config(file, base, []string{set}); err == nil {
			t.Errorf("the setting %q is taken", set)
		}
	}
}
