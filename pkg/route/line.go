package route

import (
	"errors"
	"fmt"
	"strings"
)

// section is one word of a line: a value and the props behind it.
type section struct {
	value string
	props []prop
}

// prop is one option of a section. An option without "=" has an empty value.
type prop struct{ name, value string }

// parseLine splits a line of the routes file:
//
//	line       = *SP [ section *( 1*SP section ) ] *SP [ "#" anything ]
//	section    = [ value ] *( "," prop )
//	prop       = name [ "=" text ]
//	value,text = plain characters and quoted pieces; ends at SP "," "#" or the end
//	quoted     = DQUOTE *( any but DQUOTE and backslash | "\\" | "\" DQUOTE ) DQUOTE
//
// A section whose first word has a "=" has no value: that word is a prop.
func parseLine(s string) ([]section, error) {
	var all []section
	for {
		s = strings.TrimLeft(s, " ")
		if s == "" || s[0] == '#' {
			return all, nil
		}
		sec, rest, err := parseSection(s)
		if err != nil {
			return nil, err
		}
		all = append(all, sec)
		s = rest
	}
}

func parseSection(s string) (sec section, rest string, err error) {
	word, _, s, err := parseWord(s)
	if err != nil {
		return sec, "", err
	}
	if strings.Contains(word, "=") {
		if sec.props, err = appendProp(nil, word); err != nil {
			return sec, "", err
		}
	} else {
		sec.value = word
	}
	for s != "" && s[0] == ',' {
		var empty bool
		if word, empty, s, err = parseWord(s[1:]); err != nil {
			return sec, "", err
		}
		if empty {
			return sec, "", errors.New("expecting prop")
		}
		if sec.props, err = appendProp(sec.props, word); err != nil {
			return sec, "", err
		}
	}
	return sec, s, nil
}

func appendProp(props []prop, word string) ([]prop, error) {
	name, value, _ := strings.Cut(word, "=")
	if name == "" {
		return nil, errors.New("empty prop name")
	}
	return append(props, prop{name, value}), nil
}

// parseWord takes plain characters and quoted pieces. empty says that there was
// nothing at all, not even quotes.
func parseWord(s string) (word string, empty bool, rest string, err error) {
	var b strings.Builder
	quoted := false
	i := 0
	for ; i < len(s); i++ {
		c := s[i]
		switch {
		case quoted && c == '\\':
			if i++; i == len(s) {
				return "", false, "", errors.New("unterminated escape sequence")
			}
			if s[i] != '\\' && s[i] != '"' {
				return "", false, "", fmt.Errorf("unexpected escape character: %c", s[i])
			}
			b.WriteByte(s[i])
		case c == '"':
			quoted = !quoted
		case !quoted && (c == ' ' || c == ',' || c == '#'):
			return b.String(), i == 0, s[i:], nil
		default:
			b.WriteByte(c)
		}
	}
	if quoted {
		return "", false, "", errors.New("unterminated quoted section")
	}
	return b.String(), i == 0, "", nil
}

// formatLine writes sections so that parseLine reads the same ones back.
func formatLine(sections []section) string {
	var b strings.Builder
	for i, sec := range sections {
		if i > 0 {
			b.WriteByte(' ')
		}
		if sec.value != "" || len(sec.props) == 0 {
			b.WriteString(quote(sec.value))
		}
		for _, p := range sec.props {
			b.WriteByte(',')
			b.WriteString(quote(p.name))
			if p.value != "" {
				b.WriteString("=" + quote(p.value))
			}
		}
	}
	return b.String()
}

func quote(s string) string {
	if s != "" && !strings.ContainsAny(s, ` ,#"`) {
		return s
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}
