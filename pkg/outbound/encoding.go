package outbound

import (
	"bufio"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"io"
	"strings"

	"github.com/holdfast/holdfast/pkg/http1"
)

// acceptEncoding are the content codings that decode knows.
const acceptEncoding = "gzip, deflate"

// decode makes Read return what was there before the server compressed it. A
// coding that nobody asked for is left as it is, with its header field.
func (r *Response) decode() {
	if r.Code == 204 || r.Code == 304 || r.resp.Head.BodyLen == 0 {
		return
	}
	coding, _ := http1.Get(r.Header, "Content-Encoding")
	switch coding = strings.ToLower(strings.TrimSpace(coding)); coding {
	case "gzip", "x-gzip", "deflate":
	default:
		return
	}
	r.Header = http1.Del(r.Header, "Content-Encoding", "Content-Length")
	r.body = &decoder{src: bufio.NewReader(r.resp), deflate: coding == "deflate"}
}

// decoder reads compressed data. It looks at it with the first Read only, since
// that has to wait for it.
type decoder struct {
	src     *bufio.Reader
	deflate bool
	r       io.Reader
}

func (d *decoder) Read(p []byte) (int, error) {
	if d.r == nil {
		if err := d.begin(); err != nil {
			return 0, err
		}
	}
	return d.r.Read(p)
}

func (d *decoder) begin() error {
	head, err := d.src.Peek(2)
	switch {
	case len(head) == 0:
		return err
	case !d.deflate:
		d.r, err = gzip.NewReader(d.src)
	case len(head) == 2 && head[0]&0x0f == 8 && (uint(head[0])<<8|uint(head[1]))%31 == 0:
		d.r, err = zlib.NewReader(d.src)
	default:
		// Some servers leave out the zlib wrapping that RFC 9110 asks for.
		d.r, err = flate.NewReader(d.src), nil
	}
	return err
}
