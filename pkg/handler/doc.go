// Package handler is the process that owns subscriptions and publish intake.
package handler
