package config

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Bytes is a size. In the file it is a number, with K, M or G for powers of
// 1024 if wanted.
type Bytes int64

func (b Bytes) String() string {
	for _, u := range []struct {
		n    int64
		name string
	}{{1 << 30, "G"}, {1 << 20, "M"}, {1 << 10, "K"}} {
		if b != 0 && int64(b)%u.n == 0 && int64(b) >= u.n {
			return strconv.FormatInt(int64(b)/u.n, 10) + u.name
		}
	}
	return strconv.FormatInt(int64(b), 10)
}

func parseBytes(s string) (Bytes, error) {
	digits, shift := s, 0
	if s != "" {
		switch s[len(s)-1] {
		case 'k', 'K':
			shift = 10
		case 'm', 'M':
			shift = 20
		case 'g', 'G':
			shift = 30
		}
		if shift > 0 {
			digits = s[:len(s)-1]
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n > 1<<62>>shift || n < -1<<62>>shift {
		return 0, fmt.Errorf("%s is not a size: want a number of bytes, or one with K, M or G", quote(s))
	}
	return Bytes(n << shift), nil
}

// parseDuration reads a bare number in the given unit, or a number with a unit
// of its own: 90s, 1m30s, 250ms.
func parseDuration(s, unit string) (time.Duration, error) {
	text := s
	if _, err := strconv.ParseFloat(s, 64); err == nil {
		text += unit
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		name := map[string]string{"s": "seconds", "ms": "milliseconds"}[unit]
		return 0, fmt.Errorf("%s is not a time: want a number of %s, or one with a unit such as 500ms, 90s, 5m", quote(s), name)
	}
	return d, nil
}

// formatDuration is a number in the given unit.
func formatDuration(d time.Duration, unit string) string {
	u := time.Second
	if unit == "ms" {
		u = time.Millisecond
	}
	return strconv.FormatFloat(float64(d)/float64(u), 'f', -1, 64)
}

// Mode is a file mode that may be unset.
type Mode struct {
	Perm os.FileMode
	Set  bool
}

func (m Mode) String() string {
	if !m.Set {
		return ""
	}
	return strconv.FormatUint(uint64(m.Perm), 8)
}

func parseMode(s string) (Mode, error) {
	if s == "" || s == "-1" {
		return Mode{}, nil
	}
	n, err := strconv.ParseUint(s, 8, 32)
	if err != nil || n > 0o777 {
		return Mode{}, fmt.Errorf("%s is not a file mode: want an octal number up to 777", quote(s))
	}
	return Mode{Perm: os.FileMode(n), Set: true}, nil
}

func parseBool(s string) (bool, error) {
	switch strings.ToLower(s) {
	case "true", "1", "yes", "on":
		return true, nil
	case "false", "0", "no", "off", "":
		return false, nil
	}
	return false, fmt.Errorf("%s is neither true nor false", quote(s))
}

// Log levels, as the file numbers them.
const (
	LogError = 0
	LogWarn  = 1
	LogInfo  = 2
	LogDebug = 3
	LogTrace = 4
)

var levelNames = []string{"error", "warn", "info", "debug", "trace"}

// components are the names that a log level can be given to. The last three are
// Pushpin's; they are accepted and have no effect.
var components = []string{"runner", "connmgr", "proxy", "handler", "zurl", "mongrel2", "m2adapter"}

// serviceAliases are the names of earlier Pushpin versions.
var serviceAliases = map[string]string{
	"condure": "connmgr", "pushpin-condure": "connmgr", "pushpin-connmgr": "connmgr",
	"pushpin-proxy": "proxy", "pushpin-handler": "handler",
}

func component(name string) string {
	if to, ok := serviceAliases[name]; ok {
		return to
	}
	return name
}

// LogLevels are the levels by component.
type LogLevels struct {
	Default int
	By      map[string]int
}

// For returns the level of a component.
func (l LogLevels) For(name string) int {
	if n, ok := l.By[name]; ok {
		return n
	}
	return l.Default
}

func (l LogLevels) String() string {
	items := []string{strconv.Itoa(l.Default)}
	for _, c := range components {
		if n, ok := l.By[c]; ok {
			items = append(items, c+":"+strconv.Itoa(n))
		}
	}
	return strings.Join(items, ",")
}

// ParseLogLevels reads "2", "debug", "2,proxy:3" or "warn,handler:trace".
func ParseLogLevels(items []string) (LogLevels, error) {
	l := LogLevels{Default: LogInfo}
	bare := false
	for _, item := range items {
		item = strings.TrimSpace(item)
		name, text, named := strings.Cut(item, ":")
		if !named {
			text = item
			if bare {
				return LogLevels{}, fmt.Errorf("%s is a second level for everything: only one item may be without a name", quote(item))
			}
			bare = true
		}
		n, err := parseLevel(text)
		if err != nil {
			return LogLevels{}, err
		}
		if !named {
			l.Default = n
			continue
		}
		name = component(strings.TrimSpace(name))
		if !slices.Contains(components, name) {
			return LogLevels{}, fmt.Errorf("%s is not a component: want one of %s", quote(name), strings.Join(components, ", "))
		}
		if l.By == nil {
			l.By = make(map[string]int)
		}
		l.By[name] = n
	}
	return l, nil
}

func parseLevel(s string) (int, error) {
	s = strings.ToLower(strings.TrimSpace(s))
	if i := slices.Index(levelNames, s); i >= 0 {
		return i, nil
	}
	if n, err := strconv.Atoi(s); err == nil && n >= LogError {
		return min(n, LogTrace), nil // Pushpin takes any larger number for the highest
	}
	return 0, fmt.Errorf("%s is not a log level: want 0 to 4, or one of %s", quote(s), strings.Join(levelNames, ", "))
}
