package origin

// Buffered returns how many bytes of the connection are here already. If there
// are any, Read usually need not wait.
func (r *Response) Buffered() int {
	if r.conn == nil || r.conn.br == nil {
		return 0
	}
	return r.conn.br.Buffered()
}
