package connmgr

import (
	"testing"
)

// FuzzScanner: where the scanner sees messages end, and what it refuses, does not
// depend on how the input is cut, and it always gets on.
func FuzzScanner(f *testing.F) {
	f.Add([]byte(masked(0x01, "a")+masked(0x89, "")+masked(0x80, "b")), uint8(1))
	f.Add([]byte(masked(0xc1, "a")+masked(0xc0, "b")), uint8(3))
	f.Add([]byte("\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00x"), uint8(2))
	f.Add([]byte(masked(0x88, "a")), uint8(5))
	f.Fuzz(func(t *testing.T, in []byte, size uint8) {
		scan := func(size int) (ends []int, fault bool) {
			var s wsScanner
			for at := 0; at < len(in) && !s.fault; {
				n := s.pass(in[at:min(len(in), at+size)])
				if n < 0 || n > size || n == 0 && !s.fault {
					t.Fatalf("%d of %d bytes passed", n, size)
				}
				if at += n; s.between() && !s.fault {
					ends = append(ends, at)
				}
			}
			return ends, s.fault
		}
		whole, fault := scan(len(in) + 1)
		cut, cutFault := scan(int(size) + 1)
		if fault != cutFault || len(whole) != len(cut) {
			t.Fatalf("ends %v, fault %v; in pieces of %d %v, %v", whole, fault, int(size)+1, cut, cutFault)
		}
		for i := range whole {
			if whole[i] != cut[i] {
				t.Fatalf("ends %v, in pieces %v", whole, cut)
			}
		}
	})
}
