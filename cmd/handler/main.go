// Handler takes publications, knows who is subscribed to what, and tells connmgr
// what to deliver. It is one of the four processes of Holdfast.
package main

import "github.com/holdfast/holdfast/cmd/internal/cli"

func main() { cli.Main(program) }
