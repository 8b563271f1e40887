package netpolicy

import (
	"net/netip"
	"testing"
)

func TestPublic(t *testing.T) {
	tests := map[string]bool{
		"1.1.1.1":                true,
		"93.184.216.34":          true,
		"172.32.0.1":             true,
		"192.169.0.1":            true,
		"100.128.0.1":            true,
		"198.20.0.1":             true,
		"2606:4700::1111":        true,
		"::ffff:1.1.1.1":         true,
		"64:ff9b::1.1.1.1":       true,
		"2002:0101:0101::1":      true,
		"0.0.0.0":                false,
		"0.1.2.3":                false,
		"127.0.0.1":              false,
		"127.255.255.254":        false,
		"10.1.2.3":               false,
		"172.16.0.1":             false,
		"172.31.255.255":         false,
		"192.168.1.1":            false,
		"169.254.169.254":        false,
		"100.64.0.1":             false,
		"100.127.255.255":        false,
		"192.0.0.170":            false,
		"198.18.0.1":             false,
		"198.19.255.255":         false,
		"224.0.0.1":              false,
		"239.255.255.255":        false,
		"240.0.0.1":              false,
		"255.255.255.255":        false,
		"192.0.2.1":              false,
		"::":                     false,
		"::1":                    false,
		"::127.0.0.1":            false,
		"fe80::1":                false,
		"fe80::1%eth0":           false,
		"fec0::1":                false,
		"fc00::1":                false,
		"fd12:3456::1":           false,
		"ff02::1":                false,
		"2001:db8::1":            false,
		"2001::1":                false, // Teredo
		"3fff::1":                false,
		"100::1":                 false,
		"64:ff9b:1::1.1.1.1":     false,
		"::ffff:127.0.0.1":       false,
		"::ffff:169.254.169.254": false,
		"64:ff9b::10.0.0.1":      false,
		"64:ff9b::a9fe:a9fe":     false,
		"2002:7f00:0001::1":      false,
		"2002:c0a8:0101::":       false,
	}
	for s, want := range tests {
		if got := Public(netip.MustParseAddr(s)); got != want {
			t.Errorf("Public(%s): got %t, want %t", s, got, want)
		}
	}
	if Public(netip.Addr{}) {
		t.Error("the zero address is public")
	}
}

func TestRules(t *testing.T) {
	type ask struct {
		host string
		port uint16
		want bool
	}
	tests := []struct {
		name, def   string
		allow, deny []string
		asks        []ask
	}{
		{"default", "", nil, nil, []ask{{"a.example", 80, true}, {"127.0.0.1", 80, true}}},
		{"deny all", "deny", nil, nil, []ask{{"a.example", 80, false}, {"127.0.0.1", 80, false}}},
		{"pushpin's list", "allow", nil, []string{"127.*", "10.*", "192.168.*", "*.local"}, []ask{
			{"127.0.0.1", 80, false},
			{"10.9.8.7", 80, false},
			{"printer.LOCAL", 80, false},
			{"printer.local.", 80, false},
			{"::ffff:10.1.1.1", 80, false},
			{"[::ffff:7f00:1]", 80, false},
			{"64:ff9b::10.1.1.1", 80, false},
			{"local", 80, true},
			{"a.example", 80, true},
			{"172.16.0.1", 80, true},
		}},
		{"allow wins by default", "allow", []string{"10.0.0.5"}, []string{"10.0.0.0/8"}, []ask{{"10.0.0.5", 80, true}, {"10.0.0.6", 80, false}, {"11.0.0.1", 80, true}}},
		{"deny wins otherwise", "deny", []string{"10.0.0.0/8", "*.example"}, []string{"10.0.0.5", "bad.example"}, []ask{
			{"10.0.0.4", 80, true}, {"10.0.0.5", 80, false}, {"a.example", 80, true}, {"BAD.example", 80, false}, {"10.example.com", 80, false},
		}},
		{"IPv6", "allow", nil, []string{"fe80::/10", "::1", "FD00:*"}, []ask{
			{"[fe80::1]", 80, false}, {"fe80::1%eth0", 80, false}, {"::1", 80, false}, {"0:0:0:0:0:0:0:1", 80, false}, {"fd00::9", 80, false}, {"2606::1", 80, true},
		}},
		{"ports", "allow", nil, []string{"*:25", "10.0.0.0/8:1-1023", "[::1]:80", "db.example:5432"}, []ask{
			{"a.example", 25, false},
			{"1.2.3.4", 25, false},
			{"a.example", 26, true},
			{"10.0.0.1", 1023, false},
			{"10.0.0.1", 1024, true},
			{"::1", 80, false},
			{"::1", 81, true},
			{"db.example", 5432, false},
			{"db.example", 5433, true},
		}},
		{"internal", "allow", nil, []string{"@internal"}, []ask{{"169.254.169.254", 80, false}, {"0.0.0.0", 80, false}, {"1.1.1.1", 80, true}, {"internal", 80, true}}},
		{"star in the middle", "deny", []string{"a*z"}, nil, []ask{{"az", 1, true}, {"abcz", 1, true}, {"a", 1, false}, {"abc", 1, false}}},
		{"star does not overlap", "deny", []string{"aba*ba"}, nil, []ask{{"aba", 1, false}, {"ababa", 1, true}}},
		{"blanks", "deny", []string{" ", " a.example "}, nil, []ask{{"a.example", 1, true}, {"", 1, false}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, err := New(tt.def, tt.allow, tt.deny)
			if err != nil {
				t.Fatal(err)
			}
			for _, a := range tt.asks {
				if got := r.AllowsHost(a.host, a.port); got != a.want {
					t.Errorf("%s port %d: got %t, want %t", a.host, a.port, got, a.want)
				}
			}
		})
	}
	var none *Rules
	if !none.AllowsHost("x", 1) || !none.AllowsAddr(netip.MustParseAddr("127.0.0.1"), 1) {
		t.Error("no rules at all refuse something")
	}
}

func TestNewRefuses(t *testing.T) {
	for _, p := range []string{"10.0.0.0/33", "example/8", "a*b*c", "*:70000", "*:2-1", "*:1x", "*:1-", "*:1-x"} {
		if _, err := New("allow", nil, []string{p}); err == nil {
			t.Errorf("pattern %q: no error", p)
		}
		if _, err := New("allow", []string{p}, nil); err == nil {
			t.Errorf("pattern %q: no error", p)
		}
	}
	if _, err := New("maybe", nil, nil); err == nil {
		t.Error(`default "maybe": no error`)
	}
}

// Whatever else is denied, no spelling of a rule or of a host opens the inside.
func FuzzRules(f *testing.F) {
	for _, text := range []string{"*:25", "10.0.0.0/8:1-1023", "[::1]:80", "*.local", "127.*", "@internal:80", "host.example", "::/0"} {
		f.Add(text, "127.0.0.1", uint16(80))
		f.Add(text, "[::ffff:10.0.0.1]", uint16(25))
		f.Add(text, "a.local.", uint16(443))
	}
	f.Fuzz(func(t *testing.T, text, host string, port uint16) {
		r, err := New("allow", nil, []string{text, "@internal"})
		if err != nil {
			if r != nil {
				t.Fatalf("rules with error %v", err)
			}
			return
		}
		allowed := r.AllowsHost(host, port)
		if len(host) > 1 && host[0] == '[' && host[len(host)-1] == ']' {
			host = host[1 : len(host)-1]
		}
		if addr, err := netip.ParseAddr(host); err == nil && !Public(addr.Unmap().WithZone("")) && allowed {
			t.Fatalf("%q allows %s, which is not public", text, host)
		}
	})
}
