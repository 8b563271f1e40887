// Package proxy is the process that talks GRIP to origins: it chooses the route
// of a client's request, asks the origin, relays the answer, and hands the
// exchange to a handler if the answer says so.
package proxy
