package proxy

import (
	"context"
	"io"

	"github.com/holdfast/holdfast/pkg/frame"
)

// Origin makes requests to origins. It follows no redirects, decodes no
// content, and sends and reports header fields as they are: case, order and
// repetition. Its errors wrap one of the sentinels of package origin.
type Origin interface {
	Do(ctx context.Context, r *OriginRequest) (*OriginResponse, error)
}

// OriginRequest is one request to one target.
type OriginRequest struct {
	Method  string
	URI     string // request target
	Header  []frame.Field
	Body    io.Reader // nil if none
	BodyLen int64     // -1 unknown
}

// OriginResponse is what came back.
type OriginResponse struct {
	Code   int
	Reason string
	Header []frame.Field
}
