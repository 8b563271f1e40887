package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

const envPrefix = "HOLDFAST_"

// envFile names the configuration file, as --config does.
const envFile = envPrefix + "CONFIG"

// Lookup is where a configuration file is looked for if none is named, first
// to last.
func Lookup() []string {
	return []string{
		"config/holdfast.conf", "holdfast.conf", "/etc/holdfast/holdfast.conf",
		"config/pushpin.conf", "pushpin.conf", "examples/config/pushpin.conf", "/etc/pushpin/pushpin.conf",
	}
}

// Source says where to read from. The zero value means: the file that Lookup
// finds, and nothing else.
type Source struct {
	// File is the main file. If empty, HOLDFAST_CONFIG in Env, or else the first
	// of Lookup that exists. None at all is fine: the defaults hold.
	File string
	// Env is the environment, as os.Environ has it.
	Env []string
	// Set are settings of the form section.key=value; the last one wins.
	Set []string
	// Name is the instance, for {name}.
	Name string
	// Lookup replaces the files of the function Lookup, for tests.
	Lookup []string
}

// Load reads the configuration. The error holds every fault that was found.
func Load(src Source) (*Config, error) {
	l := loader{src: src, c: &Config{origin: make(map[string]string)}, values: make(map[string]value)}
	l.load()
	if len(l.errs) > 0 {
		return nil, errors.Join(l.errs...)
	}
	return l.c, nil
}

type loader struct {
	src    Source
	c      *Config
	values map[string]value // by full name; the strongest source
	vars   *strings.Replacer
	errs   []error
}

func (l *loader) fail(v value, text string) {
	l.errs = append(l.errs, &Error{File: v.file, Line: v.line, Key: v.source, Text: text})
}

func (l *loader) note(kind NoticeKind, v value, name, text string) {
	section, key, _ := strings.Cut(name, ".")
	l.c.Notices = append(l.c.Notices, Notice{Kind: kind, File: v.file, Line: v.line, Section: section, Key: key, Source: v.source, Text: text})
}

func (l *loader) load() {
	main, ok := l.readMain()
	if !ok {
		return
	}
	flags := l.readSet()
	env := l.readEnv()
	// The strongest source first: the first value of a key stays.
	for _, from := range []map[string]value{flags, env, main} {
		l.merge(from)
	}
	l.aliases()
	l.variables()
	if included, ok := l.readInclude(); ok {
		l.merge(included)
		l.aliases()
		l.variables()
	}
	l.judgeNames()
	l.decode()
	l.check()
	slices.SortStableFunc(l.c.Notices, func(a, b Notice) int { return int(a.Kind) - int(b.Kind) })
}

func (l *loader) merge(from map[string]value) {
	for name, v := range from {
		if _, ok := l.values[name]; !ok {
			l.values[name] = v
		}
	}
}

// readMain finds and reads the main file.
func (l *loader) readMain() (map[string]value, bool) {
	file := l.src.File
	if file == "" {
		for _, kv := range l.src.Env {
			if v, ok := strings.CutPrefix(kv, envFile+"="); ok {
				file = v
			}
		}
	}
	if file == "" {
		lookup := l.src.Lookup
		if lookup == nil {
			lookup = Lookup()
		}
		for _, name := range lookup {
			if st, err := os.Stat(name); err == nil && !st.IsDir() {
				file = name
				break
			}
		}
	}
	if file == "" {
		l.c.Dir = "."
		return nil, true
	}
	l.c.File, l.c.Dir = file, filepath.Dir(file)
	values, err := l.readFile(file)
	if err != nil {
		l.errs = append(l.errs, err)
		return nil, false
	}
	return values, true
}

func (l *loader) readFile(file string) (map[string]value, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("configuration file: %w", err)
	}
	defer f.Close()                                            //nolint:errcheck // it was only read
	data, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1)) // parseINI refuses what is longer
	if err != nil {
		return nil, fmt.Errorf("configuration file: %w", err)
	}
	entries, notices, err := parseINI(file, data)
	if err != nil {
		return nil, err
	}
	l.c.Notices = append(l.c.Notices, notices...)
	values := make(map[string]value, len(entries))
	for _, e := range entries {
		name := e.section + "." + e.key
		if earlier, ok := values[name]; ok {
			l.note(Repeated, e.value, name, fmt.Sprintf("is set again; line %d no longer counts", earlier.line))
		}
		values[name] = e.value
	}
	return values, nil
}

func (l *loader) readEnv() map[string]value {
	values := make(map[string]value)
	for _, kv := range l.src.Env {
		name, text, _ := strings.Cut(kv, "=")
		rest, ok := strings.CutPrefix(name, envPrefix)
		if !ok || name == envFile {
			continue
		}
		section, key, _ := strings.Cut(strings.ToLower(rest), "_")
		v, err := literal(text, "environment", name)
		if err != nil {
			l.fail(v, err.Error())
			continue
		}
		values[section+"."+key] = v
	}
	return values
}

func (l *loader) readSet() map[string]value {
	values := make(map[string]value)
	for _, set := range l.src.Set {
		name, text, ok := strings.Cut(set, "=")
		name = strings.TrimSpace(name)
		v, err := literal(text, "command line", name)
		switch _, known := fields()[name]; {
		case !ok:
			l.fail(value{file: "command line"}, quote(set)+": want section.key=value")
		case err != nil:
			l.fail(v, err.Error())
		case !known && !isAlias(name):
			text := "there is no such setting"
			if reason, ok := whyNotActedOn(name); ok {
				text = "has no effect: " + reason
			} else if s := suggest(name); s != "" {
				text += "; did you mean " + s + "?"
			}
			l.fail(v, text)
		default:
			values[name] = v
		}
	}
	return values
}

// literal is a value that stands in no file.
func literal(text, from, source string) (value, error) {
	v, _, err := parseValue(strings.TrimSpace(text))
	v.file, v.source = from, source
	return v, err
}

// readInclude reads the file that global.include names. What is wrong with a
// file that need not be there is no error.
func (l *loader) readInclude() (map[string]value, bool) {
	v, ok := l.values["global.include"]
	if !ok || v.text == "" {
		return nil, false
	}
	name := v.text
	if name == "internal.conf" {
		name = "{libdir}/internal.conf"
	}
	name = l.vars.Replace(name)
	if !filepath.IsAbs(name) {
		name = filepath.Join(l.c.Dir, name)
	}
	values, err := l.readFile(name)
	if errors.Is(err, fs.ErrNotExist) && filepath.Base(name) == "internal.conf" {
		return nil, false // names the sockets between Pushpin's processes, which are not ours
	}
	if err != nil {
		l.fail(v, err.Error())
		return nil, false
	}
	delete(values, "global.include")
	return values, true
}

func isAlias(name string) bool {
	return slices.ContainsFunc(aliases, func(a alias) bool { return a.old == name })
}

// aliases moves values of old names to the new ones.
func (l *loader) aliases() {
	for _, a := range aliases {
		old, ok := l.values[a.old]
		if !ok {
			continue
		}
		delete(l.values, a.old)
		now, both := l.values[a.now]
		switch {
		case !both:
			l.values[a.now] = old
		case a.add:
			now.items = append(slices.Clone(now.items), old.items...)
			l.values[a.now] = now
		}
		l.note(Renamed, old, a.old, "is now called "+a.now)
	}
}

// variables makes the replacer for {libdir}, {rundir}, {ipc_prefix} and {name}.
func (l *loader) variables() {
	text := func(name string) string {
		if v, ok := l.values[name]; ok {
			return v.text
		}
		return fields()[name].tag.Get("default")
	}
	libdir := text("global.libdir")
	if libdir == "" {
		libdir = "/usr/lib/holdfast"
		if filepath.Base(l.c.File) == "pushpin.conf" {
			libdir = "/usr/lib/pushpin"
		}
	}
	prefix := text("global.ipc_prefix")
	rundir := strings.NewReplacer("{libdir}", libdir, "{ipc_prefix}", prefix).Replace(text("global.rundir"))
	l.vars = strings.NewReplacer("{libdir}", libdir, "{ipc_prefix}", prefix, "{rundir}", rundir, "{name}", l.src.Name)
}

// judgeNames reports keys that do not exist or have no effect.
func (l *loader) judgeNames() {
	var names []string
	for name := range l.values {
		if _, ok := fields()[name]; !ok {
			names = append(names, name)
		}
	}
	slices.SortFunc(names, func(a, b string) int {
		va, vb := l.values[a], l.values[b]
		if va.file != vb.file {
			return strings.Compare(va.file, vb.file)
		}
		if va.line != vb.line {
			return va.line - vb.line
		}
		return strings.Compare(a, b)
	})
	for _, name := range names {
		v := l.values[name]
		if reason, ok := whyNotActedOn(name); ok {
			l.note(NotActedOn, v, name, reason)
			continue
		}
		text := "there is no such setting"
		if s := suggest(name); s != "" {
			text += "; did you mean " + s + "?"
		}
		l.note(Unknown, v, name, text)
	}
}

// decode fills the typed value.
func (l *loader) decode() {
	offset := 0
	root := reflect.ValueOf(l.c).Elem()
	for _, s := range schema() {
		for _, f := range s.fields {
			v, set := l.values[f.name()]
			target := root.FieldByIndex(f.index)
			if set {
				l.c.origin[f.name()] = strings.TrimSuffix(place(v.file, v.line, ""), ": ")
			}
			// An empty value means the default where nothing can be empty.
			if !set || (v.text == "" && !canBeEmpty(f.typ)) {
				var err error
				if v, err = literal(f.tag.Get("default"), "", f.name()); err != nil {
					l.fail(v, err.Error())
					continue
				}
			}
			if err := l.decodeField(f, v, target); err != nil {
				l.fail(v, err.Error())
				continue
			}
			if f.name() == "global.port_offset" {
				offset = l.c.Global.PortOffset
			}
			if f.tag.Get("offset") != "" && offset != 0 {
				if err := moveports(target, offset); err != nil {
					l.fail(v, err.Error())
				}
			}
		}
	}
}

func canBeEmpty(t reflect.Type) bool {
	return t.Kind() == reflect.String || (t.Kind() == reflect.Slice) || t == reflect.TypeFor[Mode]()
}

func (l *loader) decodeField(f field, v value, target reflect.Value) error {
	text := l.vars.Replace(v.text)
	switch p := target.Addr().Interface().(type) {
	case *string:
		if err := checkOneOf(f, text); err != nil {
			return err
		}
		*p = text
	case *[]string:
		*p = make([]string, 0, len(v.items))
		for _, item := range v.items {
			if item != "" {
				*p = append(*p, l.vars.Replace(item))
			}
		}
	case *bool:
		b, err := parseBool(text)
		if err != nil {
			return err
		}
		*p = b
	case *int:
		n, err := strconv.Atoi(text)
		if err != nil {
			return fmt.Errorf("%s is not a whole number", quote(text))
		}
		*p = n
		return checkRange(f, int64(n), strconv.Itoa, func(s string) (int64, error) { return strconv.ParseInt(s, 10, 64) })
	case *time.Duration:
		unit := f.tag.Get("unit")
		d, err := parseDuration(text, unit)
		if err != nil {
			return err
		}
		*p = d
		return checkRange(f, int64(d), func(n int) string { return time.Duration(n).String() },
			func(s string) (int64, error) { d, err := parseDuration(s, unit); return int64(d), err })
	case *Bytes:
		b, err := parseBytes(text)
		if err != nil {
			return err
		}
		*p = b
		return checkRange(f, int64(b), func(n int) string { return Bytes(n).String() },
			func(s string) (int64, error) { b, err := parseBytes(s); return int64(b), err })
	case *Mode:
		m, err := parseMode(text)
		if err != nil {
			return err
		}
		*p = m
	case *LogLevels:
		levels, err := ParseLogLevels(v.items)
		if err != nil {
			return err
		}
		*p = levels
	default:
		return fmt.Errorf("has a type that the reader does not know: %T", p) // a test decodes every key
	}
	return nil
}

func checkOneOf(f field, text string) error {
	oneof, ok := f.tag.Lookup("oneof")
	if !ok {
		return nil
	}
	allowed := strings.Split(oneof, ",")
	if slices.Contains(allowed, text) {
		return nil
	}
	allowed = slices.DeleteFunc(allowed, func(s string) bool { return s == "" })
	return fmt.Errorf("%s is not one of %s", quote(text), strings.Join(allowed, ", "))
}

func checkRange(f field, n int64, show func(int) string, parse func(string) (int64, error)) error {
	for _, limit := range []string{"min", "max"} {
		text, ok := f.tag.Lookup(limit)
		if !ok {
			continue
		}
		m, err := parse(text)
		if err != nil {
			return fmt.Errorf("its %s is wrong: %w", limit, err)
		}
		if limit == "min" && n < m {
			return fmt.Errorf("%s is less than %s, the smallest possible", show(int(n)), show(int(m)))
		}
		if limit == "max" && n > m {
			return fmt.Errorf("%s is more than %s, the largest possible", show(int(n)), show(int(m)))
		}
	}
	return nil
}

// moveports adds offset to the port of a tcp spec, of each one in a list, or to
// a bare port.
func moveports(target reflect.Value, offset int) error {
	var err error
	move := func(spec string) string {
		i := strings.LastIndexByte(spec, ':')
		if !strings.HasPrefix(spec, "tcp://") || i < len("tcp://") {
			return spec
		}
		port, bad := strconv.Atoi(spec[i+1:])
		if bad != nil {
			return spec // tcp://*:* and the like: the system chooses
		}
		if port += offset; port < 1 || port > 65535 {
			err = fmt.Errorf("port %d, with port_offset %d, is not between 1 and 65535", port-offset, offset)
		}
		return spec[:i+1] + strconv.Itoa(port)
	}
	switch p := target.Addr().Interface().(type) {
	case *string:
		*p = move(*p)
	case *[]string:
		for i, spec := range *p {
			(*p)[i] = move(spec)
		}
	case *int:
		if *p > 0 {
			if *p += offset; *p < 1 || *p > 65535 {
				err = fmt.Errorf("port %d, with port_offset %d, is not between 1 and 65535", *p-offset, offset)
			}
		}
	}
	return err
}

// check looks at what the types cannot say.
func (l *loader) check() {
	c := l.c
	at := func(name string) value {
		v, ok := l.values[name]
		if !ok {
			v.source = name
		}
		return v
	}

	var services []string
	for _, s := range c.Runner.Services {
		s = component(s)
		switch s {
		case "mongrel2", "m2adapter":
			l.note(NotActedOn, at("runner.services"), "runner.services", s+" is not part of Holdfast; connmgr serves the client ports")
			s = "connmgr"
		case "connmgr", "proxy", "handler", "zurl":
		default:
			l.note(Unknown, at("runner.services"), "runner.services", quote(s)+" is not a process: want connmgr, proxy, handler, zurl")
			continue
		}
		if !slices.Contains(services, s) {
			services = append(services, s)
		}
	}
	if slices.Contains(services, "handler") && !slices.Contains(services, "zurl") {
		services = append(services, "zurl")
	}
	c.Runner.Services = services
	for _, item := range c.Runner.Instances {
		kind, number, _ := strings.Cut(item, ":")
		n, err := strconv.Atoi(number)
		switch {
		case err != nil || n < 1 || n > 64:
			l.fail(at("runner.instances"), quote(item)+": want KIND:NUMBER with a number from 1 to 64, such as connmgr:2")
		case kind != "connmgr" && kind != "proxy" && n > 1:
			l.fail(at("runner.instances"), quote(item)+": there can be several of connmgr and proxy only")
		}
	}

	if c.Global.RunDir == "" {
		l.fail(at("global.rundir"), "is empty: want a directory for sockets and pid files")
	}
	for _, ports := range []struct {
		name  string
		parse func(string) (Listener, error)
		items []string
	}{
		{"runner.http_port", parsePort, c.Runner.HTTPPort},
		{"runner.https_ports", parsePort, c.Runner.HTTPSPorts},
		{"runner.local_ports", parseLocal, c.Runner.LocalPorts},
	} {
		for _, item := range ports.items {
			if _, err := ports.parse(item); err != nil {
				l.fail(at(ports.name), err.Error())
			}
		}
	}
	if _, err := c.ControlSocket(); err != nil {
		l.fail(at("handler.push_in_http_local"), err.Error())
	}
	if len(c.Runner.HTTPPort)+len(c.Runner.HTTPSPorts)+len(c.Runner.LocalPorts) == 0 {
		l.fail(at("runner.http_port"), "there is no client port at all: set http_port, https_ports or local_ports")
	}
	if c.Proxy.SigKey == "changeme" {
		l.note(Unsafe, at("proxy.sig_key"), "proxy.sig_key", "is the key of Pushpin's example file, which everybody knows")
	}
}
