// Proxy chooses routes, talks GRIP to origins and relays their answers. It is
// one of the four processes of Holdfast.
package main

import "github.com/holdfast/holdfast/cmd/internal/cli"

func main() { cli.Main(program()) }
