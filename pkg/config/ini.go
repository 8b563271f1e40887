package config

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// Limits of a configuration file. They are far above any real one.
const (
	maxFileBytes = 1 << 20
	maxKeys      = 4096
)

// value is the right side of one line.
type value struct {
	text   string   // the whole, without quotes
	items  []string // what stands between unquoted commas, trimmed, empty ones dropped
	file   string   // where it comes from: a path, "environment" or "command line"
	line   int      // 0 outside files
	source string   // how the user wrote the key, for messages
}

// entry is one key with its value.
type entry struct {
	section, key string
	value        value
}

// parseINI reads an INI file. It returns the entries in the order of the file,
// with repeats, and what a reader of the same file should be told.
//
// The format is that of Qt's INI reader as far as people use it on purpose:
// sections in brackets, key=value, comments on lines that begin with # or ;,
// double quotes that protect commas and semicolons, and backslash escapes inside
// quotes. Where Qt loses input without a word, this reader keeps it and says so:
// see the notices.
func parseINI(file string, data []byte) ([]entry, []Notice, error) {
	if len(data) > maxFileBytes {
		return nil, nil, &Error{File: file, Text: fmt.Sprintf("is larger than %d bytes, so it is not a configuration file", maxFileBytes)}
	}
	if !utf8.Valid(data) {
		return nil, nil, &Error{File: file, Text: "is not UTF-8 text"}
	}
	var (
		entries []entry
		notices []Notice
		section string
	)
	text := strings.TrimPrefix(string(data), "\ufeff")
	for n, line := range strings.Split(text, "\n") {
		at := n + 1
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' || line[0] == ';' {
			continue
		}
		if strings.ContainsRune(line, 0) {
			return nil, nil, &Error{File: file, Line: at, Text: "contains a NUL byte"}
		}
		if line[0] == '[' {
			name, rest, ok := strings.Cut(line[1:], "]")
			rest = strings.TrimSpace(rest)
			if name = strings.TrimSpace(name); !ok || name == "" || (rest != "" && rest[0] != ';' && rest[0] != '#') {
				return nil, nil, &Error{File: file, Line: at, Text: "a section line must be [name]"}
			}
			section = strings.ToLower(name)
			continue
		}
		key, raw, ok := strings.Cut(line, "=")
		key = strings.TrimSpace(key)
		if !ok || key == "" {
			return nil, nil, &Error{File: file, Line: at, Text: fmt.Sprintf("%s: a line must be a [section], key=value, or a comment that begins with # or ;", quote(line))}
		}
		if section == "" {
			return nil, nil, &Error{File: file, Line: at, Key: key, Text: "stands before the first [section]"}
		}
		if len(entries) == maxKeys {
			return nil, nil, &Error{File: file, Line: at, Text: fmt.Sprintf("more than %d keys", maxKeys)}
		}
		v, hints, err := parseValue(strings.TrimSpace(raw))
		if err != nil {
			return nil, nil, &Error{File: file, Line: at, Key: section + "." + key, Text: err.Error()}
		}
		v.file, v.line, v.source = file, at, section+"."+key
		for _, h := range hints {
			notices = append(notices, Notice{Kind: Ambiguous, File: file, Line: at, Section: section, Key: key, Source: v.source, Text: h})
		}
		entries = append(entries, entry{section: section, key: key, value: v})
	}
	return entries, notices, nil
}

// parseValue splits the right side of a line.
func parseValue(raw string) (value, []string, error) {
	var (
		v           value
		hints       []string
		whole, item strings.Builder
		quoted      bool // inside quotes
		hadQuote    bool // this item has quotes, so it counts even if it is empty
		backslash   bool
		semicolon   bool
	)
	flush := func() {
		s := item.String()
		if !hadQuote {
			s = strings.TrimSpace(s)
		}
		if s != "" || hadQuote {
			v.items = append(v.items, s)
		}
		item.Reset()
		hadQuote = false
	}
loop:
	for i := 0; i < len(raw); i++ {
		c := raw[i]
		switch {
		case c == '"':
			quoted = !quoted
			if quoted && strings.TrimSpace(item.String()) == "" {
				item.Reset() // blanks between a comma and a quote
			}
			hadQuote = true
			continue
		case quoted && c == '\\':
			if i++; i == len(raw) {
				return value{}, nil, fmt.Errorf("ends inside quotes")
			}
			switch raw[i] {
			case 'n':
				c = '\n'
			case 't':
				c = '\t'
			case '\\', '"':
				c = raw[i]
			default:
				return value{}, nil, fmt.Errorf(`\%c inside quotes is not one of \\ \" \n \t`, raw[i])
			}
		case quoted:
		case c == '\\':
			backslash = true
		case c == ',':
			flush()
			whole.WriteByte(c)
			continue
		case c == ';':
			if i == 0 || raw[i-1] == ' ' || raw[i-1] == '\t' {
				break loop // a comment
			}
			semicolon = true
		}
		if hadQuote && !quoted && (c == ' ' || c == '\t') {
			whole.WriteByte(c)
			continue // blanks after a closing quote are not part of the item
		}
		item.WriteByte(c)
		whole.WriteByte(c)
	}
	if quoted {
		return value{}, nil, fmt.Errorf("ends inside quotes")
	}
	flush()
	v.text = whole.String()
	if !strings.HasPrefix(raw, `"`) {
		v.text = strings.TrimSpace(v.text)
	} else if len(v.items) == 1 {
		v.text = v.items[0]
	}
	if semicolon {
		hints = append(hints, "the semicolon is read as part of the value; Pushpin would cut the value there. Put the value in quotes if that is what you mean, or a blank before the semicolon if it begins a comment")
	}
	if backslash {
		hints = append(hints, "the backslash is read as it stands; Pushpin would take it for an escape. Put the value in quotes and write \\\\ to have the same in both")
	}
	return v, hints, nil
}

// quote shows a little of the input in a message.
func quote(s string) string {
	const most = 60
	if len(s) > most {
		cut := most
		for cut > 0 && !utf8.RuneStart(s[cut]) {
			cut--
		}
		s = s[:cut] + "…"
	}
	return fmt.Sprintf("%q", s)
}
