package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/holdfast/holdfast/pkg/config"
	"github.com/holdfast/holdfast/pkg/grip"
	"github.com/holdfast/holdfast/pkg/handler"
)

// Each default is written twice, for the file and for the package.
func TestDefaults(t *testing.T) {
	c, err := config.Load(config.Source{Lookup: []string{"none"}})
	if err != nil {
		t.Fatal(err)
	}
	got, err := options(c)
	if err != nil {
		t.Fatal(err)
	}
	want := handler.DefaultOptions()
	want.Stats = "ipc://run/pushpin-stats" // a package has no run directory
	if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(handler.Options{}, grip.Key{})); diff != "" {
		t.Error(diff)
	}
}

func TestOff(t *testing.T) {
	c, err := config.Load(config.Source{Lookup: []string{"none"}, Set: []string{
		"handler.push_in_http_port=-1", "handler.push_in_spec=", "handler.message_rate=-1", "handler.message_hwm=-1", "handler.stats_format=json",
	}})
	if err != nil {
		t.Fatal(err)
	}
	o, err := options(c)
	if err != nil {
		t.Fatal(err)
	}
	if o.HTTPAddr != "" || o.PushIn != "" || o.MessageRate != 0 || o.MessageHWM != 0 || !o.StatsJSON {
		t.Errorf("got %+v", o)
	}
}

func TestAuth(t *testing.T) {
	for set, want := range map[string]string{
		"handler.push_in_http_auth_iss=me":         "tokens need a key",
		"handler.push_in_http_auth_user=me":        "want NAME:PASSWORD",
		"handler.push_in_http_auth_key=file:/none": "push_in_http_auth_key: key file",
		"handler.push_in_http_auth_key=k":          "",
	} {
		c, err := config.Load(config.Source{Lookup: []string{"none"}, Set: []string{set}})
		if err != nil {
			t.Fatal(err)
		}
		o, err := options(c)
		switch {
		case want == "" && (err != nil || o.HTTPAuth.Key.IsZero()):
			t.Errorf("%s: got %+v, %v", set, o.HTTPAuth, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: got %v, want %q", set, err, want)
		}
	}
}
