package main

import "slices"

// cases are all cases, in the order in which they are started: those that
// wait for a timer come first, so that they run beside the others.
func cases() []*Case {
	return slices.Concat(
		wsCases(),
		keepAliveCases(),
		nextCases(),
		holdCases(),
		instructCases(),
		jsonCases(),
		engineCases(),
		statsCases(),
		publishCases(),
		controlCases(),
		corsCases(),
		edgeCases(),
		headerCases(),
		routeCases(),
		proxyCases(),
	)
}
