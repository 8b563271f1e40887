// Package daemon is what every process does around its server: the log, the
// signals, the order of starting and stopping, and the exit code.
package daemon
