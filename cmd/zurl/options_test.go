package main

import (
	"os"
	"path/filepath"
	"testing"

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
	if want := (zurl.Webhooks{Store: "state/webhooks.db", File: "webhooks", MaxBytes: 1 << 30}); got.Webhooks != want {
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
