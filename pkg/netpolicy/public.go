package netpolicy

import "net/netip"

// notPublic lists the IPv4 networks and the parts of global unicast IPv6 that
// are not the public Internet (IANA special-purpose address registries).
var notPublic = prefixes(
	"0.0.0.0/8",       // this host; Linux connects 0.0.0.0 to itself
	"10.0.0.0/8",      // private
	"100.64.0.0/10",   // shared address space of providers and clouds
	"127.0.0.0/8",     // loopback
	"169.254.0.0/16",  // link-local, metadata services of clouds
	"172.16.0.0/12",   // private
	"192.0.0.0/24",    // protocol assignments
	"192.0.2.0/24",    // documentation
	"192.88.99.0/24",  // 6to4 relays, deprecated
	"192.168.0.0/16",  // private
	"198.18.0.0/15",   // benchmarks
	"198.51.100.0/24", // documentation
	"203.0.113.0/24",  // documentation
	"224.0.0.0/4",     // multicast
	"240.0.0.0/4",     // reserved, broadcast

	"2001::/23",     // protocol assignments, Teredo among them
	"2001:db8::/32", // documentation
	"3fff::/20",     // documentation
)

var (
	globalUnicast = netip.MustParsePrefix("2000::/3")
	nat64         = netip.MustParsePrefix("64:ff9b::/96") // IPv4 in the last 4 bytes (RFC 6052)
	sixToFour     = netip.MustParsePrefix("2002::/16")    // IPv4 in bytes 2 to 5 (RFC 3056)
)

func prefixes(list ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(list))
	for i, s := range list {
		out[i] = netip.MustParsePrefix(s)
	}
	return out
}

// Public reports whether addr is on the public Internet, as far as its number
// tells: not loopback, private, link-local, multicast, reserved or the like. An
// IPv6 address that stands for an IPv4 address (mapped, NAT64, 6to4) is judged by
// that. Requests on behalf of somebody who is not trusted may go to public
// addresses only.
func Public(addr netip.Addr) bool {
	addr = embedded(addr)
	if !addr.IsValid() || addr.Is6() && !globalUnicast.Contains(addr) {
		return false
	}
	for _, p := range notPublic {
		if p.Contains(addr) {
			return false
		}
	}
	return true
}

// embedded returns the IPv4 address that addr stands for, else addr, without a
// zone in either case.
func embedded(addr netip.Addr) netip.Addr {
	addr = addr.Unmap().WithZone("")
	switch b := addr.As16(); {
	case nat64.Contains(addr):
		return netip.AddrFrom4([4]byte(b[12:16]))
	case sixToFour.Contains(addr):
		return netip.AddrFrom4([4]byte(b[2:6]))
	}
	return addr
}
