// Package publish sends messages to a GRIP proxy, for the examples. It is all
// that a backend needs besides its own web framework.
package publish

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"
)

// Item is one message for one channel. With ID and PrevID the proxy notices
// when a client has missed something, and asks the backend for it.
type Item struct {
	Channel string         `json:"channel"`
	ID      string         `json:"id,omitempty"`
	PrevID  string         `json:"prev-id,omitempty"`
	Formats map[string]any `json:"formats"`
}

// Publisher publishes to the control API of a proxy.
type Publisher struct {
	// URL of the control API, such as http://127.0.0.1:5561.
	URL string
}

var client = &http.Client{Timeout: 10 * time.Second}

// Publish sends one item.
func (p Publisher) Publish(item Item) error {
	body, err := json.Marshal(map[string]any{"items": []Item{item}})
	if err != nil {
		return err
	}
	resp, err := client.Post(p.URL+"/publish/", "application/json", bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("publishing to %q: %w", item.Channel, err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1000))
	if err != nil {
		return fmt.Errorf("publishing to %q: %w", item.Channel, err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("publishing to %q: %s: %s", item.Channel, resp.Status, text)
	}
	return nil
}
