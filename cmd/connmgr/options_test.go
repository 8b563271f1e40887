package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/holdfast/holdfast/pkg/config"
	"github.com/holdfast/holdfast/pkg/connmgr"
)

// Each default is written twice, for the file and for the package.
func TestDefaults(t *testing.T) {
	c, err := config.Load(config.Source{Lookup: []string{"none"}})
	if err != nil {
		t.Fatal(err)
	}
	got, err := options(c, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := connmgr.DefaultOptions()
	want.Listen, want.CertDir = []connmgr.Listen{{Network: "tcp", Addr: "0.0.0.0:7999"}}, "runner/certs"
	if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(connmgr.Options{})); diff != "" {
		t.Error(diff)
	}
}

func TestListen(t *testing.T) {
	c, err := config.Load(config.Source{Lookup: []string{"none"}})
	if err != nil {
		t.Fatal(err)
	}
	got, err := options(c, []string{"127.0.0.1:1,tls", "/s,local,mode=660"})
	if err != nil {
		t.Fatal(err)
	}
	want := []connmgr.Listen{{Network: "tcp", Addr: "127.0.0.1:1", TLS: true}, {Network: "unix", Addr: "/s", Mode: 0o660}}
	if diff := cmp.Diff(want, got.Listen); diff != "" {
		t.Error(diff)
	}
	if _, err := options(c, []string{"80", "x"}); err == nil {
		t.Error("took a wrong listener")
	}
}

// Every policy that the configuration allows has a meaning.
func TestPolicies(t *testing.T) {
	for name := range policies {
		c, err := config.Load(config.Source{Lookup: []string{"none"}, Set: []string{"connmgr.backlog_policy=" + name}})
		if err != nil {
			t.Fatal(err)
		}
		if o, err := options(c, nil); err != nil || o.Policy != policies[name] {
			t.Errorf("%s: got %v, %v", name, o.Policy, err)
		}
	}
}
