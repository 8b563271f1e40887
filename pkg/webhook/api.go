package webhook

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// decode reads one JSON value strictly.
func decode(b []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	err := d.Decode(into)
	if err == nil {
		if _, err2 := d.Token(); !errors.Is(err2, io.EOF) {
			err = errors.New("something follows the JSON value")
		}
	}
	if err == nil {
		return nil
	}
	at := d.InputOffset()
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		at = syntax.Offset
	}
	line := 1 + bytes.Count(b[:min(int(at), len(b))], []byte("\n"))
	return fmt.Errorf("line %d: %s", line, strings.TrimPrefix(err.Error(), "json: "))
}

// Call is a request to the API; its path begins below the API's own.
type Call struct {
	Method, Path, Query string
	Body                []byte
}

// Answer is what the API says: JSON.
type Answer struct {
	Status int
	Body   []byte
}

// maxList is the most that one answer lists.
const maxList = 1000

// action is what can be done with a path.
type action func(s *Service, id string, q url.Values, body []byte) (status int, v any, err error)

// actions are by the word after the id, and the method. docs/webhooks.md lists
// them.
var actions = map[string]map[string]action{
	"": {
		"GET": func(s *Service, id string, _ url.Values, _ []byte) (int, any, error) {
			v, err := s.Get(id)
			return 200, v, err
		},
		"PATCH": func(s *Service, id string, _ url.Values, body []byte) (int, any, error) {
			v, err := s.Update(id, func(e *Endpoint) error {
				// JSON merges maps and reuses lists: what is named is replaced.
				return merge(body, e)
			})
			return 200, v, err
		},
		"PUT": func(s *Service, id string, _ url.Values, body []byte) (int, any, error) {
			v, err := s.Update(id, func(e *Endpoint) error {
				*e = Endpoint{ID: id}
				return decode(body, e)
			})
			return 200, v, err
		},
		"DELETE": func(s *Service, id string, _ url.Values, _ []byte) (int, any, error) { return 204, nil, s.Delete(id) },
	},
	"pause": {"POST": func(s *Service, id string, _ url.Values, _ []byte) (int, any, error) {
		v, err := s.SetPaused(id, true)
		return 200, v, err
	}},
	"resume": {"POST": func(s *Service, id string, _ url.Values, _ []byte) (int, any, error) {
		v, err := s.SetPaused(id, false)
		return 200, v, err
	}},
	"test": {"POST": func(s *Service, id string, _ url.Values, _ []byte) (int, any, error) {
		message, err := s.Test(id)
		return 202, map[string]string{"message": message}, err
	}},
	"rotate": {"POST": func(s *Service, id string, _ url.Values, body []byte) (int, any, error) {
		in := struct {
			Secret  string   `json:"secret"`
			Overlap Duration `json:"overlap"`
		}{Overlap: Duration(rotateOverlap)}
		if len(body) > 0 {
			if err := decode(body, &in); err != nil {
				return 0, nil, fmt.Errorf("%w: %w", ErrInvalid, err)
			}
		}
		v, err := s.Rotate(id, in.Secret, time.Duration(in.Overlap))
		return 200, v, err
	}},
	"secret": {"GET": func(s *Service, id string, _ url.Values, _ []byte) (int, any, error) {
		key, err := s.Secret(id)
		return 200, map[string]string{"secret": key}, err
	}},
	"attempts": {"GET": func(s *Service, id string, q url.Values, _ []byte) (int, any, error) {
		limit, err := limitOf(q)
		if err != nil {
			return 0, nil, err
		}
		all, err := s.Attempts(id, limit)
		return 200, map[string]any{"attempts": all}, err
	}},
	"dead": {
		"GET": func(s *Service, id string, q url.Values, _ []byte) (int, any, error) {
			limit, err := limitOf(q)
			if err != nil {
				return 0, nil, err
			}
			c, err := choiceIn(q)
			if err != nil {
				return 0, nil, err
			}
			all, err := s.DeadLetters(id, c, limit)
			return 200, map[string]any{"dead_letters": all}, err
		},
		"DELETE": purge((*Service).Purge),
	},
	"replay": {"POST": func(s *Service, id string, _ url.Values, body []byte) (int, any, error) {
		c, after, err := choiceOf(body)
		if err != nil {
			return 0, nil, err
		}
		if after != 0 {
			return 0, nil, fmt.Errorf("%w: after: dead letters have no number", ErrInvalid)
		}
		n, err := s.Replay(id, c)
		return 200, map[string]int{"replayed": n}, err
	}},
	"kept": {
		"GET": func(s *Service, id string, q url.Values, _ []byte) (int, any, error) {
			limit, err := limitOf(q)
			if err != nil {
				return 0, nil, err
			}
			c, err := choiceIn(q)
			if err != nil {
				return 0, nil, err
			}
			after, err := strconv.ParseUint(cmp.Or(q.Get("after"), "0"), 10, 63)
			if err != nil {
				return 0, nil, fmt.Errorf("%w: after: want the number of a message", ErrInvalid)
			}
			all, err := s.Kept(id, c, after, limit)
			return 200, map[string]any{"kept": all}, err
		},
		"DELETE": purge((*Service).PurgeKept),
	},
	"resend": {"POST": func(s *Service, id string, _ url.Values, body []byte) (int, any, error) {
		c, after, err := choiceOf(body)
		if err != nil {
			return 0, nil, err
		}
		res, err := s.Resend(id, c, after)
		return 200, res, err
	}},
}

// purge is the action that forgets what of an endpoint a query names.
func purge(forget func(*Service, string, Choice) (int, error)) action {
	return func(s *Service, id string, q url.Values, _ []byte) (int, any, error) {
		c, err := choiceIn(q)
		if err != nil {
			return 0, nil, err
		}
		n, err := forget(s, id, c)
		return 200, map[string]int{"purged": n}, err
	}
}

// choiceIn reads a choice from a query; without any it is all.
func choiceIn(q url.Values) (Choice, error) {
	c := Choice{All: true, IDs: q["id"]}
	return c, c.times(q.Get("since"), q.Get("until"))
}

// choiceOf reads a choice from a body. after is 0 if it is not there.
func choiceOf(body []byte) (c Choice, after uint64, err error) {
	var in struct {
		IDs   []string `json:"ids"`
		Since string   `json:"since"`
		Until string   `json:"until"`
		All   bool     `json:"all"`
		After uint64   `json:"after"`
	}
	if err := decode(body, &in); err != nil {
		return c, 0, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	c = Choice{IDs: in.IDs, All: in.All}
	if err := c.times(in.Since, in.Until); err != nil {
		return c, 0, err
	}
	if len(c.IDs) == 0 && c.Since.IsZero() && c.Until.IsZero() && !c.All {
		return c, 0, fmt.Errorf(`%w: want ids, since, until or "all": true`, ErrInvalid)
	}
	return c, min(in.After, math.MaxInt64), nil
}

// times reads the bounds of a choice, in RFC 3339.
func (c *Choice) times(since, until string) error {
	for _, b := range []struct {
		name, text string
		into       *time.Time
	}{{"since", since, &c.Since}, {"until", until, &c.Until}} {
		if b.text == "" {
			continue
		}
		at, err := time.Parse(time.RFC3339, b.text)
		if err != nil {
			return fmt.Errorf("%w: %s: want a time such as 2026-01-31T12:00:00Z", ErrInvalid, b.name)
		}
		*b.into = at
	}
	return nil
}

func limitOf(q url.Values) (int, error) {
	text := q.Get("limit")
	if text == "" {
		return 100, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > maxList {
		return 0, fmt.Errorf("%w: limit: want 1 to %d", ErrInvalid, maxList)
	}
	return n, nil
}

// merge changes what body names and nothing else.
func merge(body []byte, e *Endpoint) error {
	var named map[string]json.RawMessage
	if err := decode(body, &named); err != nil {
		return err
	}
	// A decoder adds to maps and writes into lists.
	for name := range named {
		switch name {
		case "channels":
			e.Channels = nil
		case "events":
			e.Events = nil
		case "metadata":
			e.Metadata = nil
		case "headers":
			e.Headers = nil
		case "retries":
			e.Retries = nil
		}
	}
	return decode(body, e)
}

// ServeAPI answers a request: "" lists and creates endpoints, ID reads, changes
// and deletes one, ID/WORD does something with it.
func (s *Service) ServeAPI(c Call) Answer {
	status, v, err := s.call(c)
	if err != nil {
		return failure(err)
	}
	if v == nil {
		return Answer{Status: status}
	}
	b, err := json.Marshal(v)
	if err != nil {
		return failure(err)
	}
	return Answer{Status: status, Body: append(b, '\n')}
}

func (s *Service) call(c Call) (status int, v any, err error) {
	q, err := url.ParseQuery(c.Query)
	if err != nil {
		return 0, nil, fmt.Errorf("%w: query", ErrInvalid)
	}
	path := strings.Trim(c.Path, "/")
	if path == "" {
		switch c.Method {
		case http.MethodGet:
			limit, err := limitOf(q)
			if err != nil {
				return 0, nil, err
			}
			return 200, map[string]any{"endpoints": s.List(q.Get("after"), limit)}, nil
		case http.MethodPost:
			e := Endpoint{Verify: true} // whose address it is has to be shown, unless said otherwise
			if err := decode(c.Body, &e); err != nil {
				return 0, nil, fmt.Errorf("%w: %w", ErrInvalid, err)
			}
			v, err := s.Create(e)
			return 201, v, err
		}
		return 0, nil, methodError([]string{"GET", "POST"})
	}
	id, word, _ := strings.Cut(path, "/")
	methods, ok := actions[word]
	if !ok {
		return 0, nil, errPath
	}
	do, ok := methods[c.Method]
	if !ok {
		var allowed []string
		for m := range methods {
			allowed = append(allowed, m)
		}
		slices.Sort(allowed)
		return 0, nil, methodError(allowed)
	}
	return do(s, id, q, c.Body)
}

var errPath = errors.New("no such path")

// methodError lists the methods that a path has.
type methodError []string

func (e methodError) Error() string { return "want " + strings.Join(e, " or ") }

// failure is the answer to what went wrong.
func failure(err error) Answer {
	status := http.StatusInternalServerError
	var method methodError
	switch {
	case errors.Is(err, ErrNotFound), errors.Is(err, errPath):
		status = http.StatusNotFound
	case errors.Is(err, ErrConflict):
		status = http.StatusConflict
	case errors.Is(err, ErrInvalid):
		status = http.StatusBadRequest
	case errors.As(err, &method):
		status = http.StatusMethodNotAllowed
	case errors.Is(err, ErrStopping), errors.Is(err, ErrBusy), errors.Is(err, ErrFull), errors.Is(err, ErrStore):
		status = http.StatusServiceUnavailable
	}
	b, _ := json.Marshal(map[string]string{"error": err.Error()}) // text
	return Answer{Status: status, Body: append(b, '\n')}
}

// Failure is the answer to a request that a Service never saw: 503, with the
// reason.
func Failure(err error) Answer {
	a := failure(err)
	a.Status = http.StatusServiceUnavailable
	return a
}
