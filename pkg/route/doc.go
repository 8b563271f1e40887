// Package route reads the routes file and finds the route of a request.
//
// The file has one route in each line: a condition, then the targets in order of
// preference.
//
//	# condition             targets
//	*                       localhost:8000
//	example.com,path_beg=/a 10.0.0.1:80 10.0.0.2:80,ssl
//
// The grammar is Pushpin's. Matching differs in one point: which of several
// matching routes is best follows a total order, so it cannot depend on the
// order of unrelated lines.
package route
