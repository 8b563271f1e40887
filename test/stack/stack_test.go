package stack

import "testing"

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
