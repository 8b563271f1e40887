package grip

import (
	"strings"

	"github.com/holdfast/holdfast/pkg/frame"
)

// AddCORS appends to a response's header the cross-origin fields that it lacks,
// as the request asks for them. Doing it twice changes nothing.
func AddCORS(h, request []frame.Field) []frame.Field {
	requested := func(name string) string { v, _ := get(request, name); return v }
	add := func(name, value string) {
		if _, ok := get(h, name); !ok && value != "" {
			h = append(h, frame.Field{Name: name, Value: value})
		}
	}
	expose := exposable(h)
	add("Access-Control-Allow-Methods", or(requested("Access-Control-Request-Method"), "OPTIONS, HEAD, GET, POST, PUT, DELETE"))
	add("Access-Control-Allow-Headers", joinNonEmpty(List(request, "Access-Control-Request-Headers")))
	add("Access-Control-Expose-Headers", expose)
	add("Access-Control-Allow-Credentials", "true")
	add("Access-Control-Allow-Origin", or(requested("Origin"), "*"))
	add("Access-Control-Max-Age", "3600")
	return h
}

func or(s, otherwise string) string {
	if s != "" {
		return s
	}
	return otherwise
}

func joinNonEmpty(list []string) string {
	kept := list[:0]
	for _, s := range list {
		if s != "" {
			kept = append(kept, s)
		}
	}
	return strings.Join(kept, ", ")
}

// exposable lists the names of h that a script could not see otherwise.
func exposable(h []frame.Field) string {
	var names []string
	seen := make(map[string]bool, len(h))
	for i := range h {
		lower := strings.ToLower(h[i].Name)
		switch lower {
		case "cache-control", "content-language", "content-length", "content-type", "expires", "last-modified", "pragma":
			continue
		}
		if seen[lower] || strings.HasPrefix(lower, "grip-") || strings.HasPrefix(lower, "access-control-") {
			continue
		}
		seen[lower] = true
		names = append(names, h[i].Name)
	}
	return strings.Join(names, ", ")
}
