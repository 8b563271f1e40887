// Package metrics holds a process's metrics registry and the HTTP listeners that
// show it: the admin listener, and one in Pushpin's form for what reads that.
package metrics
