// Connmgr terminates the clients' HTTP and WebSocket connections and holds them.
// It is one of the four processes of Holdfast.
package main

import "github.com/holdfast/holdfast/cmd/internal/cli"

func main() { cli.Main(program()) }
