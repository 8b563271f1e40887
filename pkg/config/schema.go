package config

import (
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// field is one key as its struct tag describes it.
type field struct {
	section, key string
	tag          reflect.StructTag
	index        []int // path from Config
	typ          reflect.Type
	own          bool // Pushpin does not have it
}

func (f field) name() string { return f.section + "." + f.key }

// env is the name of the environment variable that sets the key.
func (f field) env() string { return envPrefix + strings.ToUpper(f.section+"_"+f.key) }

// section is one section as its struct tag describes it.
type section struct {
	name, doc string
	own       bool
	fields    []field
}

// schema returns all sections and keys, in the order of the structs.
var schema = sync.OnceValue(func() []section {
	var sections []section
	root := reflect.TypeFor[Config]()
	for i := range root.NumField() {
		sf := root.Field(i)
		name, ok := sf.Tag.Lookup("section")
		if !ok {
			continue
		}
		s := section{name: name, doc: sf.Tag.Get("doc"), own: sf.Tag.Get("own") != ""}
		var walk func(t reflect.Type, index []int)
		walk = func(t reflect.Type, index []int) {
			for j := range t.NumField() {
				kf := t.Field(j)
				path := append(slices.Clone(index), j)
				if kf.Anonymous {
					walk(kf.Type, path)
					continue
				}
				s.fields = append(s.fields, field{
					section: name, key: kf.Tag.Get("key"), tag: kf.Tag, index: path, typ: kf.Type,
					own: s.own || kf.Tag.Get("own") != "",
				})
			}
		}
		walk(sf.Type, []int{i})
		sections = append(sections, s)
	}
	return sections
})

// fields returns all keys by their full name.
var fields = sync.OnceValue(func() map[string]field {
	m := make(map[string]field)
	for _, s := range schema() {
		for _, f := range s.fields {
			m[f.name()] = f
		}
	}
	return m
})

// alias is an old name of a key.
type alias struct {
	old, now string
	add      bool // a list: the old name's values are appended
}

var aliases = []alias{
	{old: "runner.rundir", now: "global.rundir"},
	{old: "handler.push_in_sub_spec", now: "handler.push_in_sub_specs", add: true},
}

// notActedOn are Pushpin's keys that mean nothing here. Each has its reason.
var notActedOn = []struct {
	names  *regexp.Regexp
	reason string
}{
	{
		regexp.MustCompile(`^runner\.(mongrel2|m2sh)_bin$`),
		"Mongrel2 and m2adapter are not part of Holdfast; connmgr serves the client ports",
	},
	{
		regexp.MustCompile(`^runner\.(condure|connmgr|proxy|handler|zurl)_bin$`),
		"the supervisor starts the programs that it was installed with",
	},
	{
		regexp.MustCompile(`^proxy\.workers$`),
		"one proxy uses all processors; proxy.threads limits them",
	},
	{
		regexp.MustCompile(`^proxy\.(updates_check|organization_name)$`),
		"Holdfast does not look for updates and reports nothing to anybody",
	},
	{
		regexp.MustCompile(`^proxy\.stats_report_interval$`),
		"proxies report to the handler ten times a second; handler.stats_report_interval is for what leaves the system",
	},
	{
		regexp.MustCompile(`^proxy\.ipc_file_mode$`),
		"the proxy has no public sockets; those of the bus are private to the user",
	},
	{
		regexp.MustCompile(`^zurl\.out_hwm$`),
		"what may wait for a client is bounded in bytes",
	},
	{
		regexp.MustCompile(`^proxy\.stats_connections_max_ttl$`),
		"what a proxy counts ends when the bus says that the proxy is gone, and needs no lifetime",
	},
	{
		regexp.MustCompile(`^handler\.state_spec$`),
		"there is no session state service",
	},
	{
		regexp.MustCompile(`^handler\.share_all$`),
		"requests are not shared between clients",
	},
	{
		regexp.MustCompile(`^proxy\.((condure|connmgr|m2a|zurl|intreq|handler)_\w*specs?|stats_spec|command_spec)$|` +
			`^handler\.(condure|connmgr|m2a|proxy)_\w*specs?$`),
		"the processes reach each other over Holdfast's own bus, see section [bus]",
	},
}

// whyNotActedOn returns the reason for a key of that kind.
func whyNotActedOn(name string) (string, bool) {
	for _, n := range notActedOn {
		if n.names.MatchString(name) {
			return n.reason, true
		}
	}
	return "", false
}

// suggest returns the known name that is nearest to a mistyped one, or "".
func suggest(name string) string {
	best, least := "", 4
	for known := range fields() {
		if d := distance(name, known); d < least || (d == least && best != "" && known < best) {
			best, least = known, d
		}
	}
	return best
}

// distance is the number of letters to insert, delete or change.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
