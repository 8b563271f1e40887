package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/holdfast/holdfast/pkg/config"
	"github.com/holdfast/holdfast/pkg/zurl"
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
	if got.Policy.AllowsHost("169.254.169.254", 80) || !got.Policy.AllowsHost("1.1.1.1", 80) {
		t.Error("the default policy lets requests in, or none out")
	}
	got.Policy = nil
	if want := (zurl.Webhooks{Store: "state/webhooks.db", File: "webhooks", MaxBytes: 1 << 30, KeepBytes: 256 << 20}); got.Webhooks != want {
		t.Errorf("webhooks: got %+v, want %+v", got.Webhooks, want)
	}
	got.Webhooks = zurl.Webhooks{} // the package has none unless it is told where
	if diff := cmp.Diff(zurl.DefaultOptions(), got, cmpopts.IgnoreUnexported(zurl.Options{})); diff != "" {
		t.Error(diff)
	}
}

func TestPolicy(t *testing.T) {
	c, err := config.Load(config.Source{Lookup: []string{"none"}, Set: []string{"zurl.deny=1/2"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := options(c); err == nil {
		t.Error("took a wrong pattern")
	}
}

func TestSpecs(t *testing.T) {
	c, err := config.Load(config.Source{Lookup: []string{"none"}, Set: []string{"zurl.in_spec=ipc:///x", "zurl.out_spec=ipc:///y"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := options(c); err == nil {
		t.Error("took two of three sockets")
	}
}

// A file of webhooks is looked at before anything is started.
func TestCheckOfWebhooks(t *testing.T) {
	file := filepath.Join(t.TempDir(), "hooks")
	c, err := config.Load(config.Source{Lookup: []string{"none"}, Set: []string{"zurl.webhook_file=" + file}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := program.Check(c); err != nil {
		t.Errorf("no file: %v", err)
	}
	for text, ok := range map[string]bool{
		`{"endpoints":[{"id":"a","url":"https://a.example","channels":["*"]}]}`: true,
		`{"endpoints":[{"id":"a","url":"gopher://a","channels":["*"]}]}`:        false,
		`{`: false,
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := program.Check(c); (err == nil) != ok {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// The settings of a zurl.conf, in section [zurl], mean the same.
func TestZurlConf(t *testing.T) {
	file := filepath.Join(t.TempDir(), "holdfast.conf")
	const conf = `[zurl]
instance_id=one
in_spec=ipc:///run/in
in_stream_spec=ipc:///run/in-stream
out_spec=ipc:///run/out
in_req_spec=tcp://127.0.0.1:5600
ipc_file_mode=660
defpolicy=deny
allow=*.example.com,198.51.100.0/24
deny=198.51.100.7
allow_ipv6=false
max_open_requests=-1
buffer_size=100000
timeout=300
connection_max_time=3600
in_hwm=500
out_hwm=500
`
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := config.Load(config.Source{File: file})
	if err != nil {
		t.Fatal(err)
	}
	got, err := options(c)
	if err != nil {
		t.Fatal(err)
	}
	want := zurl.DefaultOptions()
	want.InstanceID, want.InSpec, want.InStreamSpec, want.OutSpec, want.InReqSpec = "one", "ipc:///run/in", "ipc:///run/in-stream", "ipc:///run/out", "tcp://127.0.0.1:5600"
	want.IPCFileMode, want.NoIPv6, want.MaxSessions, want.BufferSize = 0o660, true, 1_000_000, 100_000
	want.SessionTimeout, want.MaxAge, want.InHWM = 5*time.Minute, time.Hour, 500
	for host, ok := range map[string]bool{"a.example.com": true, "example.com": false, "198.51.100.1": true, "198.51.100.7": false, "1.1.1.1": false} {
		if got.Policy.AllowsHost(host, 80) != ok {
			t.Errorf("%s: allowed is %t", host, !ok)
		}
	}
	got.Policy, got.Webhooks = nil, zurl.Webhooks{}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(zurl.Options{})); diff != "" {
		t.Error(diff)
	}
	if len(c.Notices) != 1 || c.Notices[0].Key != "out_hwm" {
		t.Errorf("got the notices %v", c.Notices)
	}
}
