// Package grip reads and writes GRIP as it stands in HTTP messages: the Grip-*
// header fields, application/grip-instruct bodies, and Grip-Sig.
//
// It has no sockets, no goroutines and no clock. Values compare as the protocol
// has it: header names without regard to case, everything else exactly.
package grip
