package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/holdfast/holdfast/pkg/config"
	"github.com/holdfast/holdfast/pkg/handler"
)

// Each default is written twice, for the file and for the package.
func TestDefaults(t *testing.T) {
	c, err := config.Load(config.Source{Lookup: []string{"none"}})
	if err != nil {
		t.Fatal(err)
	}
	want := handler.DefaultOptions()
	want.Stats = "ipc://run/pushpin-stats" // a package has no run directory
	if diff := cmp.Diff(want, options(c), cmpopts.IgnoreUnexported(handler.Options{})); diff != "" {
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
	o := options(c)
	if o.HTTPAddr != "" || o.PushIn != "" || o.MessageRate != 0 || o.MessageHWM != 0 || !o.StatsJSON {
		t.Errorf("got %+v", o)
	}
}
