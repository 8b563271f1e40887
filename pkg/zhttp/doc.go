// Package zhttp reads and writes the packets of Zurl's interface: dictionaries,
// as a tnetstring behind the letter T or as JSON behind the letter J. docs/zurl.md
// has the fields and what they mean.
//
// In JSON every string stands for its bytes in UTF-8, so only a tnetstring can
// carry other bodies.
package zhttp
