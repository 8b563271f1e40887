// Package cli is the command line that all four programs share: configuration,
// log, bus, admin listener, and the commands version, checkconfig, printconfig
// and defaultconfig. What differs is in [Program].
package cli
