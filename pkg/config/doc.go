// Package config reads the configuration: one INI file that all processes
// share, the environment and the command line, to one typed value.
//
// The file format is that of pushpin.conf, and a pushpin.conf works as it is.
// Values come, the first that has one wins, from
//
//  1. --set section.key=value, and named flags, which are translated to it,
//  2. the environment: HOLDFAST_SECTION_KEY,
//  3. the main file,
//  4. the file that global.include names,
//  5. the default, which is in the struct tag.
//
// The struct tags are the only place where a key, its default and its meaning
// are written down: docs/configuration.md and deploy/holdfast.conf are made
// from them by [Reference] and [Example].
//
// Nothing is ignored in silence. A value that is wrong is an [*Error], and all
// of them are returned at once. A key that does not exist, and a key of Pushpin
// that Holdfast does not act on, is a [Notice] with the reason.
package config
