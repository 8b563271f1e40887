// Zurl makes HTTP requests to addresses that others chose, for the other
// processes of Holdfast.
package main

import "github.com/holdfast/holdfast/cmd/internal/cli"

func main() { cli.Main(program) }
