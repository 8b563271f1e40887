package cli

import (
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/holdfast/holdfast/pkg/bus"
	"github.com/holdfast/holdfast/pkg/bus/bustest"
	"github.com/holdfast/holdfast/pkg/connmgr"
	"github.com/holdfast/holdfast/pkg/handler"
	"github.com/holdfast/holdfast/pkg/proxy"
	"github.com/holdfast/holdfast/pkg/webhook"
	"github.com/holdfast/holdfast/pkg/zurl"
	"github.com/holdfast/holdfast/test/need"
)

var update = flag.Bool("update", false, "write docs/metrics.md anew")

// recorder is a registry that keeps what is registered.
type recorder struct{ collectors []prometheus.Collector }

func (r *recorder) Register(c prometheus.Collector) error {
	r.collectors = append(r.collectors, c)
	return nil
}

func (r *recorder) MustRegister(cs ...prometheus.Collector) {
	r.collectors = append(r.collectors, cs...)
}

func (r *recorder) Unregister(prometheus.Collector) bool { return true }

var descPattern = regexp.MustCompile(`^Desc\{fqName: "(.*?)", help: "(.*?)", (?:unit: ".*?", )?constLabels: \{.*?\}, variableLabels: \{(.*?)\}\}$`)

// table returns the rows of the metrics, by name.
func (r *recorder) table(t *testing.T) string {
	t.Helper()
	rows := make(map[string]string)
	for _, c := range r.collectors {
		descs := drain(func(ch chan<- *prometheus.Desc) { c.Describe(ch) })
		kinds := make(map[string]string)
		for _, m := range drain(func(ch chan<- prometheus.Metric) { c.Collect(ch) }) {
			var d dto.Metric
			if err := m.Write(&d); err != nil {
				t.Fatal(err)
			}
			kinds[m.Desc().String()] = kindOf(&d)
		}
		for _, d := range descs {
			kind := kinds[d.String()]
			switch c.(type) { // without children it shows nothing
			case *prometheus.CounterVec:
				kind = "counter"
			case *prometheus.GaugeVec, *webhook.Metrics:
				kind = "gauge"
			case *prometheus.HistogramVec:
				kind = "histogram"
			}
			f := descPattern.FindStringSubmatch(d.String())
			if f == nil || f[2] == "" || kind == "" {
				t.Fatalf("metric without name, help or kind: %v, %q", d, kind)
			}
			labels := strings.ReplaceAll(f[3], ",", "`, `")
			if labels != "" {
				labels = "`" + labels + "`"
			}
			rows[f[1]] = fmt.Sprintf("| `%s` | %s | %s | %s |\n", f[1], kind, labels, f[2])
		}
	}
	names := make([]string, 0, len(rows))
	for name := range rows {
		names = append(names, name)
	}
	slices.Sort(names)
	var b strings.Builder
	b.WriteString("| metric | kind | labels | meaning |\n| --- | --- | --- | --- |\n")
	for _, name := range names {
		b.WriteString(rows[name])
	}
	return b.String()
}

func drain[T any](send func(chan<- T)) []T {
	ch := make(chan T)
	go func() {
		defer close(ch)
		send(ch)
	}()
	var all []T
	for v := range ch {
		all = append(all, v)
	}
	return all
}

func kindOf(d *dto.Metric) string {
	switch {
	case d.GetCounter() != nil:
		return "counter"
	case d.GetGauge() != nil:
		return "gauge"
	case d.GetHistogram() != nil:
		return "histogram"
	}
	return ""
}

const metricsIntro = `# Metrics

Written from the code by ` + "`make docs`" + `. What to watch, and how to reach the admin listeners, is in [operations.md](operations.md#health-and-metrics);
the values of the label ` + "`reason`" + ` are [there](operations.md#reasons) too.

Every process also has the metrics of the Go runtime (` + "`go_*`" + `) and of the process (` + "`process_*`" + `), and ` + "`holdfast_build_info`" + `, which is always 1 and
says in its labels ` + "`instance_name`, `version` and `go`" + ` what runs; ` + "`holdfast_log_lines_lost_total`" + `
counts lines of the log that could not be written. The names without ` + "`holdfast_`" + ` are Pushpin's: ` + "`prometheus_port`" + ` shows them in
Pushpin's form, with ` + "`prometheus_prefix`" + ` before them.

`

// registerers make what registers metrics, with a section of docs/metrics.md for each.
var registerers = []struct {
	title, text string
	register    func(t *testing.T, network *bustest.Network, r prometheus.Registerer) (stop func() error, err error)
}{
	{"connmgr", "The process that holds the clients.", func(_ *testing.T, network *bustest.Network, r prometheus.Registerer) (func() error, error) {
		o := connmgr.DefaultOptions()
		o.Bus, o.Registerer = network.Node("connmgr.0"), r
		s, err := connmgr.New(o)
		if err != nil {
			return nil, err
		}
		return s.Close, nil
	}},
	{"proxy", "The process that talks to origins; its `holdfast_origin_` metrics are about the connections there.", func(_ *testing.T, network *bustest.Network, r prometheus.Registerer) (func() error, error) {
		o := proxy.DefaultOptions()
		o.Bus, o.Registerer, o.Routes = network.Node("proxy.0"), r, []string{"* test"}
		s, err := proxy.New(o)
		if err != nil {
			return nil, err
		}
		return s.Close, nil
	}},
	{"handler", "The process that takes publications and delivers them. `matched` = `delivered` + `dropped` + `pending_deliveries`, always.", func(t *testing.T, network *bustest.Network, r prometheus.Registerer) (func() error, error) {
		o := handler.DefaultOptions()
		o.Bus, o.Registerer, o.HTTPAddr = network.Node("handler.0"), r, net.JoinHostPort("127.0.0.1", "0")
		o.PushIn, o.Command, o.Stats, o.PushInSub = "tcp://127.0.0.1:0", "tcp://127.0.0.1:0", "", nil
		s, err := handler.New(o)
		if err != nil {
			return nil, err
		}
		return s.Close, nil
	}},
	{"zurl", "The process that makes outbound requests for the others.", func(_ *testing.T, network *bustest.Network, r prometheus.Registerer) (func() error, error) {
		o := zurl.DefaultOptions()
		o.Bus, o.Registerer = network.Node("zurl.0"), r
		s, err := zurl.New(o)
		if err != nil {
			return nil, err
		}
		return s.Close, nil
	}},
	{"The bus, in every process", "What passes between the processes, and the ZeroMQ sockets for publishers.", func(t *testing.T, _ *bustest.Network, r prometheus.Registerer) (func() error, error) {
		n, err := bus.New(bus.Options{Name: "handler.0", Dir: t.TempDir(), Registerer: r})
		if err != nil {
			return nil, err
		}
		p, err := bus.NewPull(bus.SocketOptions{Name: "pull", Registerer: r})
		if err != nil {
			return nil, err
		}
		return func() error { _ = p.Close(); return n.Close() }, nil
	}},
}

// docs/metrics.md has every metric that the code registers. make docs writes it
// anew.
func TestMetricsDocument(t *testing.T) {
	network := bustest.NewNetwork()
	var b strings.Builder
	b.WriteString(metricsIntro)
	for _, of := range registerers {
		var r recorder
		stop, err := of.register(t, network, &r)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "## %s\n\n%s\n\n%s\n", of.title, of.text, r.table(t))
		if err := stop(); err != nil {
			t.Error(err)
		}
	}
	const file = "../../../docs/metrics.md"
	want := strings.TrimSuffix(b.String(), "\n")
	if *update {
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("%s is out of date: run make docs", file)
	}
}

// Whoever writes a rule copies names from here: all that the documents and the
// alerts say of metrics must be there.
func TestMetricsThatAreNamedExist(t *testing.T) {
	const root = "../../../"
	list, err := os.ReadFile(root + "docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	known := make(map[string]bool)
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| ([a-z]+) \\|").FindAllStringSubmatch(string(list), -1) {
		known[m[1]] = true
		if m[2] == "histogram" {
			known[m[1]+"_bucket"], known[m[1]+"_sum"], known[m[1]+"_count"] = true, true, true
		}
	}
	if len(known) < 100 {
		t.Fatalf("docs/metrics.md lists only %d metrics", len(known))
	}
	files, err := filepath.Glob(root + "docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range append(files, root+"README.md", alerts, alertsTest) {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, metric := range regexp.MustCompile(`\bholdfast_[a-z_]+[a-z]\b`).FindAllString(string(text), -1) {
			if !known[metric] && metric != "holdfast_build_info" && metric != "holdfast_log_lines_lost_total" {
				t.Errorf("%s names the metric %s, which there is not", name, metric)
			}
		}
	}
}

const (
	alerts     = "../../../deploy/alerts.yml"
	alertsTest = "../../../deploy/alerts_test.yml"
)

func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// An alert that asks for a label asks for one that is there before anything is
// counted: for Prometheus a counter that begins at 1 has not grown.
func TestAlertsAskForSeriesThatExist(t *testing.T) {
	network := bustest.NewNetwork()
	known := make(map[string]bool)
	for _, of := range registerers {
		r := prometheus.NewRegistry()
		stop, err := of.register(t, network, r)
		if err != nil {
			t.Fatal(err)
		}
		families, err := r.Gather()
		if err != nil {
			t.Error(err)
		}
		for _, f := range families {
			for _, m := range f.GetMetric() {
				for _, l := range m.GetLabel() {
					known[f.GetName()+" "+l.GetName()+" "+l.GetValue()] = true
				}
			}
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	}
	asked := 0
	for _, m := range regexp.MustCompile(`\b(holdfast_[a-z_]+)\{([a-z_]+)=~?"([^"]+)"\}`).FindAllStringSubmatch(read(t, alerts), -1) {
		for value := range strings.SplitSeq(m[3], "|") {
			asked++
			if !known[m[1]+" "+m[2]+" "+value] {
				t.Errorf("an alert asks for %s with %s=%q, which is not there at the start", m[1], m[2], value)
			}
		}
	}
	if asked < 5 {
		t.Errorf("found only %d labels in the alerts", asked)
	}
}

// Prometheus reads the alerts, and each comes when it should and not otherwise.
func TestAlerts(t *testing.T) {
	tests := read(t, alertsTest)
	for _, m := range regexp.MustCompile(`- alert: (\w+)`).FindAllStringSubmatch(read(t, alerts), -1) {
		if !regexp.MustCompile(`alertname: ` + m[1] + `\n +exp_alerts:\n`).MatchString(tests) {
			t.Errorf("no test shows that %s comes", m[1])
		}
		if !regexp.MustCompile(`alertname: ` + m[1] + `\}`).MatchString(tests) {
			t.Errorf("no test shows that %s does not come when all is well", m[1])
		}
	}
	need.Program(t, "promtool", "prometheus")
	for _, args := range [][]string{{"check", "rules", alerts}, {"test", "rules", alertsTest}} {
		if out, err := exec.CommandContext(t.Context(), "promtool", args...).CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}
