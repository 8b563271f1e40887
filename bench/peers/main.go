//go:build linux

// Command peers measures Holdfast and its peers one after the other on this
// machine, with the same client and the same origin, and prints one table.
//
//	go run ./bench/peers                    everything, two runs each as far as -time allows: 25 minutes
//	go run ./bench/peers -quick             small sizes, one run: a few minutes
//	go run ./bench/peers -systems holdfast,floor -rows fanout,proxy
//	go run ./bench/peers -scaling           how Holdfast's cost grows: about eight minutes
//	go run ./bench/peers -render docs/performance/results.json   the table of earlier results
//
// Each measurement gets a fresh instance of the system, in a directory of its
// own, with ports of its own, and ends what it has started. The peers come from
// Debian (pushpin, zurl, condure, nginx-light, libnginx-mod-nchan); one that is
// not installed is left out, with a message.
//
// A machine that does something else meanwhile spoils the figures. So each
// result says how much processor time went to strangers, and a measurement over
// -disturbance is repeated.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/holdfast/holdfast/bench/internal/proc"
	"github.com/holdfast/holdfast/bench/internal/result"
)

// Child processes get a signal when the thread that started them ends, so all
// are started from the main thread.
func init() { runtime.LockOSThread() }

type options struct {
	systems     []string
	rows        []string
	runs        int
	quick       bool
	holdfast    string
	bin         string // where load, floor and origin are
	workers     int
	disturbance float64
	repeats     int
	pprof       bool
	set         string // settings of Holdfast
	load        string // more flags of the client
	scaling     bool
	time        time.Duration
	keep        bool
	out         string
	add         bool
	svg         string
	render      string
	doc         string
}

// file is a result file.
type file struct {
	Machine machine  `json:"machine"`
	Runs    []record `json:"runs"`
}

type machine struct {
	CPU    string `json:"cpu"`
	CPUs   int    `json:"cpus"`
	Kernel string `json:"kernel"`
	Go     string `json:"go"`
	Memory string `json:"memory"`
}

// record is one measurement of one system.
type record struct {
	System  string    `json:"system"`
	Row     string    `json:"row"`
	Run     int       `json:"run"`
	Time    time.Time `json:"time"`
	LoadAvg string    `json:"loadavg"` // when it began
	Foreign float64   `json:"foreign"` // processors used by others meanwhile
	Quick   bool      `json:"quick,omitempty"`
	Error   string    `json:"error,omitempty"`
	*result.Load
}

func main() {
	o := options{}
	f := flag.NewFlagSet("peers", flag.ExitOnError)
	names := f.String("systems", "", "systems to measure, comma separated; all if empty: "+systemNames())
	rows := f.String("rows", "", "measurements to make, comma separated; all if empty: "+rowNames(measurements()))
	f.BoolVar(&o.scaling, "scaling", false, "measure how Holdfast's cost grows with connections, channels and so on, not the peers")
	f.IntVar(&o.runs, "runs", 0, "runs of each measurement; the table has their medians; 0: two, and one with -scaling")
	f.BoolVar(&o.quick, "quick", false, "a tenth of the connections and one run, to see that it works")
	f.StringVar(&o.holdfast, "holdfast", "scripts/holdfast", "the supervisor script of Holdfast")
	f.IntVar(&o.workers, "nginx-workers", runtime.NumCPU(), "worker processes of nginx")
	f.Float64Var(&o.disturbance, "disturbance", 0.15, "processors that others may use before a measurement is repeated")
	f.IntVar(&o.repeats, "repeats", 2, "how often a disturbed measurement is repeated; the least disturbed counts")
	f.DurationVar(&o.time, "time", 22*time.Minute, "after this time nothing is measured a second time; the first run is always completed")
	f.BoolVar(&o.pprof, "pprof", false, "serve profiles on Holdfast's admin listeners")
	f.StringVar(&o.set, "set", "", "settings of Holdfast, SECTION.KEY=VALUE, separated by spaces")
	f.StringVar(&o.load, "load", "", "flags of the load client that override those of the measurement, separated by spaces")
	f.BoolVar(&o.keep, "keep", false, "keep the directories with configurations and logs")
	f.StringVar(&o.out, "out", "", "result file; if empty bench/out/peers.json or scaling.json, or with -doc performance/results.json or scaling.json next to the document")
	f.BoolVar(&o.add, "add", false, "keep what the result file has of other systems and rows")
	f.StringVar(&o.svg, "svg", "", "directory for the drawings; none if empty")
	f.StringVar(&o.render, "render", "", "print the table of this result file, and measure nothing")
	f.StringVar(&o.doc, "doc", "", "document into which the tables are put, between their marks")
	_ = f.Parse(os.Args[1:]) // ExitOnError
	o.systems, o.rows = list(*names), list(*rows)
	name, runs := "peers", 2
	if o.scaling {
		name, runs, o.systems = "scaling", 1, []string{"holdfast", "floor"}
	}
	switch {
	case o.out != "":
	case o.doc == "":
		o.out = "bench/out/" + name + ".json"
	case o.scaling:
		o.out = filepath.Join(filepath.Dir(o.doc), "performance", "scaling.json")
	default:
		o.out = filepath.Join(filepath.Dir(o.doc), "performance", "results.json")
	}
	if o.runs == 0 {
		o.runs = runs
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, &o); err != nil {
		fmt.Fprintln(os.Stderr, "peers:", err)
		stop()
		os.Exit(1)
	}
}

func list(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, ",")
}

func run(ctx context.Context, o *options) error {
	var res file
	if o.render != "" || o.add {
		name := o.render
		if name == "" {
			name = o.out
		}
		b, err := os.ReadFile(name)
		if err == nil {
			err = json.Unmarshal(b, &res)
		}
		if err != nil && (o.render != "" || !errors.Is(err, os.ErrNotExist)) {
			return fmt.Errorf("result file: %w", err)
		}
	}
	if o.render == "" {
		if err := measureAll(ctx, o, &res); err != nil {
			return err
		}
	}
	if o.scaling {
		fmt.Print(scaleTables(&res) + sizing(&res))
	} else {
		fmt.Print(table(&res))
	}
	if o.doc != "" {
		if err := intoDocument(o.doc, &res, o.scaling); err != nil {
			return err
		}
	}
	if o.svg != "" {
		return drawings(o.svg, &res)
	}
	return nil
}

func measureAll(ctx context.Context, o *options, res *file) error {
	if err := check(o.systems, systemNames()); err != nil {
		return err
	}
	if err := check(o.rows, rowNames(o.rowList())); err != nil {
		return err
	}
	if o.quick {
		o.runs = 1
	}
	dir, err := os.MkdirTemp("", "holdfast-bench-")
	if err != nil {
		return err
	}
	if o.keep {
		fmt.Fprintln(os.Stderr, "directory:", dir)
	} else {
		defer os.RemoveAll(dir)
	}
	if o.bin, err = build(ctx, dir); err != nil {
		return err
	}
	if o.holdfast, err = filepath.Abs(o.holdfast); err != nil {
		return err
	}
	res.Machine = thisMachine()
	begun := time.Now()
	var present []system
	for _, s := range systems() {
		if len(o.systems) > 0 && !slices.Contains(o.systems, s.name) {
			continue
		}
		if what := s.missing(); what != "" {
			fmt.Fprintf(os.Stderr, "%s is left out: there is no %s\n", s.title, what)
			continue
		}
		present = append(present, s)
	}
	fresh := map[string]bool{} // system and row that this invocation measures
	for run := 1; run <= o.runs; run++ {
		for _, row := range o.rowList() {
			if len(o.rows) > 0 && !slices.Contains(o.rows, row.name) {
				continue
			}
			for _, s := range present {
				if !row.fits(s) {
					continue
				}
				if key := s.name + " " + row.name; !fresh[key] {
					fresh[key] = true
					res.Runs = slices.DeleteFunc(res.Runs, func(r record) bool { return r.System == s.name && r.Row == row.name })
				}
				if run > 1 && time.Since(begun) > o.time {
					return nil
				}
				sub := filepath.Join(dir, fmt.Sprintf("%s-%s-%d", s.name, row.name, run))
				rec := undisturbed(ctx, o, s, row, sub, begun.Add(o.time))
				if ctx.Err() != nil {
					return ctx.Err()
				}
				rec.Run = run
				res.Runs = append(res.Runs, rec)
				fmt.Fprintf(os.Stderr, "%s %-9s %-14s run %d: %s\n", time.Now().Format("15:04:05"), s.name, row.name, run, brief(&rec))
				if err := save(o.out, res); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// undisturbed measures until strangers have left the machine alone, or often
// enough, or until it is time to come to an end.
func undisturbed(ctx context.Context, o *options, s system, row measurement, dir string, end time.Time) record {
	var best record
	for try := 0; try <= o.repeats; try++ {
		rec := measure(ctx, o, s, row, fmt.Sprintf("%s-%d", dir, try))
		if try == 0 || best.Error != "" && rec.Error == "" || (rec.Error == "") == (best.Error == "") && rec.Foreign < best.Foreign {
			best = rec
		}
		if ctx.Err() != nil || best.Error == "" && best.Foreign <= o.disturbance || time.Now().After(end) {
			break
		}
	}
	return best
}

func measure(ctx context.Context, o *options, s system, row measurement, dir string) record {
	rec := record{System: s.name, Row: row.name, Time: time.Now().Truncate(time.Second), LoadAvg: loadAvg(), Quick: o.quick}
	load, foreign, err := measureOnce(ctx, o, s, row, dir)
	if err != nil {
		rec.Error = err.Error()
		return rec
	}
	rec.Load, rec.Foreign = load, foreign
	return rec
}

func measureOnce(ctx context.Context, o *options, s system, row measurement, dir string) (_ *result.Load, foreign float64, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, 0, err
	}
	back := &group{dir: dir}
	defer back.stop()
	origin, err := back.startAddr("origin", filepath.Join(o.bin, "origin"))
	if err != nil {
		return nil, 0, err
	}
	g := &group{dir: dir}
	defer g.stop()
	in, err := s.start(ctx, g, o, row, origin)
	if err != nil {
		return nil, 0, err
	}
	pids := g.pids()
	if s.name == "floor" && row.proxied {
		in.target, pids = origin, back.pids()
	}
	// Long enough for any measurement with a server that works.
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	args := append([]string{"-target", in.target.String(), "-pids", join(pids), "-header", in.header}, row.args(s, in, o.quick)...)
	args = append(args, strings.Fields(o.load)...)
	cmd := exec.CommandContext(ctx, filepath.Join(o.bin, "load"), args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	from, before := time.Now(), foreignTime()
	err = cmd.Run()
	foreign = (foreignTime() - before).Seconds() / time.Since(from).Seconds()
	if err != nil {
		return nil, 0, fmt.Errorf("%w: %s", err, bytes.TrimSpace(errs.Bytes()))
	}
	load := new(result.Load)
	if err := json.Unmarshal(out.Bytes(), load); err != nil {
		return nil, 0, fmt.Errorf("output of load: %w", err)
	}
	// The client has ended and is not in the tree any more.
	foreign = max(0, foreign-load.ClientCPU/time.Since(from).Seconds())
	return load, foreign, nil
}

// foreignTime is the processor time of everybody but this program and what it
// has started.
func foreignTime() time.Duration {
	total, err := proc.Total()
	if err != nil {
		return 0
	}
	own, err := proc.Read(os.Getpid())
	if err != nil {
		return 0
	}
	return total - own.CPU
}

func build(ctx context.Context, dir string) (string, error) {
	bin := filepath.Join(dir, "bin")
	cmd := exec.CommandContext(ctx, "go", "build", "-o", bin+"/", "./bench/load", "./bench/floor", "./bench/origin")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build (run this from the root of the repository): %w\n%s", err, out)
	}
	return bin, nil
}

func save(name string, res *file) error {
	b, err := json.MarshalIndent(res, "", " ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	return os.WriteFile(name, append(b, '\n'), 0o644)
}

func check(names []string, known string) error {
	for _, n := range names {
		if !slices.Contains(strings.Split(known, ","), n) {
			return fmt.Errorf("%q is none of %s", n, known)
		}
	}
	return nil
}

func systemNames() string {
	var all []string
	for _, s := range systems() {
		all = append(all, s.name)
	}
	return strings.Join(all, ",")
}

// rowList is what there is to measure.
func (o *options) rowList() []measurement {
	if o.scaling {
		return scaleMeasurements()
	}
	return measurements()
}

func rowNames(rows []measurement) string {
	var all []string
	for _, m := range rows {
		all = append(all, m.name)
	}
	return strings.Join(all, ",")
}

func join(pids []int) string {
	var all []string
	for _, p := range pids {
		all = append(all, strconv.Itoa(p))
	}
	return strings.Join(all, ",")
}

func loadAvg() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return ""
	}
	return strings.Join(strings.Fields(string(b))[:3], " ")
}

func thisMachine() machine {
	m := machine{CPUs: runtime.NumCPU(), Go: runtime.Version(), CPU: after("/proc/cpuinfo", "model name"), Memory: after("/proc/meminfo", "MemTotal")}
	if b, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.Kernel = strings.TrimSpace(string(b))
	}
	return m
}

// after finds the value of the first line "NAME: VALUE" of a file.
func after(path, name string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == name {
			return strings.TrimSpace(v)
		}
	}
	return ""
}
