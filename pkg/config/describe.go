package config

import (
	"fmt"
	"path/filepath"
	"reflect"
	"strings"
	"time"
)

// Setting is one key with the value in effect.
type Setting struct {
	Name   string // "section.key"
	Value  string // as it would be written in the file
	Origin string // where it was set; "" for the default
	Secret bool
}

// Settings returns every key with the value in effect.
func (c *Config) Settings() []Setting {
	root := reflect.ValueOf(c).Elem()
	var all []Setting
	for _, s := range schema() {
		for _, f := range s.fields {
			all = append(all, Setting{
				Name: f.name(), Value: show(f, root.FieldByIndex(f.index)), Origin: c.origin[f.name()],
				Secret: f.tag.Get("secret") != "",
			})
		}
	}
	return all
}

// Path makes a path of the file absolute or relative to the working directory:
// it starts from the directory of the configuration file.
func (c *Config) Path(p string) string {
	if p == "" || filepath.IsAbs(p) {
		return p
	}
	return filepath.Join(c.Dir, p)
}

func show(f field, v reflect.Value) string {
	switch p := v.Interface().(type) {
	case []string:
		return strings.Join(p, ",")
	case time.Duration:
		return formatDuration(p, f.tag.Get("unit"))
	default:
		return fmt.Sprint(p)
	}
}

// allowed describes what a key takes, for the reference.
func (f field) allowed() string {
	text := "text"
	switch f.typ {
	case reflect.TypeFor[[]string]():
		text = "list"
	case reflect.TypeFor[bool]():
		text = "true or false"
	case reflect.TypeFor[int]():
		text = "number"
	case reflect.TypeFor[time.Duration]():
		text = map[string]string{"s": "seconds", "ms": "milliseconds"}[f.tag.Get("unit")]
	case reflect.TypeFor[Bytes]():
		text = "bytes"
	case reflect.TypeFor[Mode]():
		text = "octal"
	case reflect.TypeFor[LogLevels]():
		text = "levels"
	}
	if oneof := f.tag.Get("oneof"); oneof != "" {
		return strings.Join(strings.Split(strings.TrimSuffix(oneof, ","), ","), ", ")
	}
	low, high := f.tag.Get("min"), f.tag.Get("max")
	switch {
	case low != "" && high != "":
		text += ", " + low + " to " + high
	case low != "":
		text += ", at least " + low
	case high != "":
		text += ", at most " + high
	}
	return text
}

// Reference returns docs/configuration.md.
func Reference() string {
	var b strings.Builder
	b.WriteString(`# Configuration

<!-- Made from the struct tags in pkg/config by "make docs". Do not edit. -->

All four processes and the supervisor read one INI file. A ` + "`pushpin.conf`" + ` works as it is; keys marked * are Holdfast's
own. ` + "`proxy checkconfig`" + ` (any of the four) reads the file, and tells about every mistake, every key that does not exist and
every key that has no effect; ` + "`proxy printconfig`" + ` shows the values in effect and where each comes from; ` + "`proxy defaultconfig`" + `
writes a commented file with all defaults.

## Where values come from

The first of these that has a value wins:

1. the command line: ` + "`--set section.key=value`" + `, or a named flag,
2. the environment: ` + "`HOLDFAST_SECTION_KEY`" + `, such as ` + "`HOLDFAST_HANDLER_MESSAGE_RATE=1000`" + `,
3. the main file,
4. the file that its ` + "`include`" + ` names,
5. the default.

The main file is the one that ` + "`--config`" + ` or ` + "`HOLDFAST_CONFIG`" + ` names, or else the first of these that exists:
`)
	for i, name := range Lookup() {
		if i > 0 {
			b.WriteString(",")
		}
		b.WriteString("\n`" + name + "`")
	}
	b.WriteString(`.
Without any file the defaults hold.

## Format

* ` + "`[section]`, `key=value`" + `. Lines that begin with ` + "`#` or `;`" + ` are comments, and so is what follows a blank and a semicolon.
* Lists are separated by commas. Double quotes protect commas, semicolons and blanks; inside quotes ` + "`\\\\`, `\\\"`, `\\n` and `\\t`" + ` are escapes.
* ` + "`{libdir}`, `{rundir}`, `{ipc_prefix}`" + ` and ` + "`{name}`" + ` (the instance, such as ` + "`proxy.0`" + `) are replaced in every value.
* Times are numbers in the unit named below, or carry their own: ` + "`500ms`, `90s`, `5m`" + `. Sizes are bytes, or carry ` + "`K`, `M` or `G`" + `.
* An empty value of a number, a size, a time or a true/false key means the default.
`)
	for _, s := range schema() {
		fmt.Fprintf(&b, "\n## [%s]\n\n%s\n\n| key | value | default | meaning |\n| --- | --- | --- | --- |\n", s.name, cell(s.doc))
		for _, f := range s.fields {
			mark := ""
			if f.own {
				mark = " *"
			}
			def := "–"
			if d := f.tag.Get("default"); d != "" {
				def = "`" + d + "`"
			}
			fmt.Fprintf(&b, "| `%s`%s | %s | %s | %s |\n", f.key, mark, cell(f.allowed()), cell(def), cell(f.tag.Get("doc")))
		}
	}
	b.WriteString("\n## Old names\n\n| old | now |\n| --- | --- |\n")
	for _, a := range aliases {
		fmt.Fprintf(&b, "| `%s` | `%s` |\n", a.old, a.now)
	}
	b.WriteString("\n## Keys of Pushpin that have no effect\n\nThey are accepted and reported.\n\n| keys (regular expression) | why |\n| --- | --- |\n")
	for _, n := range notActedOn {
		fmt.Fprintf(&b, "| `%s` | %s |\n", strings.ReplaceAll(n.names.String(), "|", `\|`), cell(n.reason))
	}
	return b.String()
}

func cell(s string) string { return strings.ReplaceAll(s, "|", `\|`) }

// Example returns a configuration file with every key at its default, all
// commented out: deploy/holdfast.conf.
func Example() string {
	var b strings.Builder
	b.WriteString(`# Configuration of Holdfast. Every setting is here with its default, commented
# out: take the # away from those that you change. docs/configuration.md has the
# same as tables. A pushpin.conf works in place of this file.
`)
	for _, s := range schema() {
		fmt.Fprintf(&b, "\n\n[%s]\n", s.name)
		wrap(&b, s.doc)
		for _, f := range s.fields {
			b.WriteString("\n")
			wrap(&b, f.tag.Get("doc")+" ("+f.allowed()+")")
			fmt.Fprintf(&b, "#%s=%s\n", f.key, f.tag.Get("default"))
		}
	}
	return b.String()
}

// wrap writes text as comment lines of at most 80 characters.
func wrap(b *strings.Builder, text string) {
	line := "#"
	for _, word := range strings.Fields(text) {
		if len(line)+1+len(word) > 80 {
			b.WriteString(line + "\n")
			line = "#"
		}
		line += " " + word
	}
	b.WriteString(line + "\n")
}
