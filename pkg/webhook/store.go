package webhook

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	bolt "go.etcd.io/bbolt"
)

// The buckets of the file.
var (
	bucketEndpoints = []byte("endpoints") // id → stored, JSON
	bucketMessages  = []byte("messages")  // seq → message
	bucketQueue     = []byte("queue")     // endpoint, seq → entry
	bucketDead      = []byte("dead")      // endpoint, seq → DeadLetter, JSON
	bucketKept      = []byte("kept")      // endpoint, seq → entry; at is when it was delivered
	bucketAttempts  = []byte("attempts")  // endpoint, number → Attempt, JSON
	bucketRecent    = []byte("recent")    // number → hash of an id
	bucketMeta      = []byte("meta")      // name → value
	buckets         = [][]byte{bucketEndpoints, bucketMessages, bucketQueue, bucketDead, bucketKept, bucketAttempts, bucketRecent, bucketMeta}
)

// metaName is the key of the file's name, which it keeps wherever it goes.
var metaName = []byte("name")

// Attempt is one try to deliver a message.
type Attempt struct {
	Number  uint64    `json:"number"` // counts the endpoint's attempts
	Message string    `json:"message"`
	Kind    string    `json:"type"`
	Channel string    `json:"channel,omitempty"`
	Try     uint32    `json:"try"`
	At      time.Time `json:"at"`
	Millis  int64     `json:"latency_ms"`
	Status  int       `json:"status,omitempty"`
	// Condition and Text say why there was no response.
	Condition string     `json:"condition,omitempty"`
	Text      string     `json:"text,omitempty"`
	Excerpt   string     `json:"response,omitempty"`
	Outcome   string     `json:"outcome"` // delivered, retry, dead, disabled
	Next      *time.Time `json:"next_attempt,omitempty"`
}

// DeadLetter is a message that was given up.
type DeadLetter struct {
	Message  string    `json:"message"`
	Kind     string    `json:"type"`
	Channel  string    `json:"channel,omitempty"`
	At       time.Time `json:"at"` // when it was published
	Died     time.Time `json:"died_at"`
	Reason   string    `json:"reason"`
	Attempts uint32    `json:"attempts"`
	Status   int       `json:"status,omitempty"`
	Size     uint32    `json:"size"`
}

// lockWait is how long a file that another process has open is waited for: the
// predecessor of this process may be on its way out.
const lockWait = 10 * time.Second

func openFile(path string) (*bolt.DB, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("webhook store: %w", err)
	}
	o := *bolt.DefaultOptions
	o.Timeout = lockWait
	o.FreelistType = bolt.FreelistMapType
	o.NoFreelistSync = true // a start reads the file once more instead
	db, err := bolt.Open(path, 0o600, &o)
	if err != nil {
		if errors.Is(err, bolt.ErrTimeout) { //nolint:staticcheck // the name that the package has
			err = errors.New("another process has it open")
		}
		return nil, fmt.Errorf("webhook store %s: %w", path, err)
	}
	err = db.Update(func(tx *bolt.Tx) error {
		for _, b := range buckets {
			if _, err := tx.CreateBucketIfNotExists(b); err != nil {
				return err
			}
		}
		if tx.Bucket(bucketMeta).Get(metaName) == nil {
			return put(tx, bucketMeta, metaName, []byte(randomID("")))
		}
		return nil
	})
	if err != nil {
		_ = db.Close() // the first error tells more
		return nil, fmt.Errorf("webhook store %s: %w", path, err)
	}
	return db, nil
}

func put(tx *bolt.Tx, bucket, k, v []byte) error { return tx.Bucket(bucket).Put(k, v) }
func del(tx *bolt.Tx, bucket, k []byte) error    { return tx.Bucket(bucket).Delete(k) }

func putJSON(tx *bolt.Tx, bucket, k []byte, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return put(tx, bucket, k, b)
}

// eachOf calls f with the records of an endpoint, in order, from the one with
// number n on, until f says no.
func eachOf(tx *bolt.Tx, bucket []byte, num uint32, n uint64, f func(n uint64, v []byte) bool) {
	c := tx.Bucket(bucket).Cursor()
	for k, v := c.Seek(key(num, n)); k != nil; k, v = c.Next() {
		owner, n, ok := parseKey(k)
		if !ok || owner != num || !f(n, v) {
			return
		}
	}
}

// deleteOf deletes all records of an endpoint and returns their numbers.
func deleteOf(tx *bolt.Tx, bucket []byte, num uint32) ([]uint64, error) {
	var all []uint64
	eachOf(tx, bucket, num, 0, func(n uint64, _ []byte) bool { all = append(all, n); return true })
	for _, n := range all {
		if err := del(tx, bucket, key(num, n)); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// load reads the whole file into the Service. What cannot be read is reported
// and left alone; what belongs to nobody is deleted.
func (s *Service) load() error {
	orphans := make(map[string][][]byte) // by bucket: what an endpoint that is deleted left behind
	skipped := 0
	orphan := func(bucket, k []byte) { orphans[string(bucket)] = append(orphans[string(bucket)], bytes.Clone(k)) }
	err := s.db.View(func(tx *bolt.Tx) error {
		s.name = string(tx.Bucket(bucketMeta).Get(metaName))
		byNum := make(map[uint32]*endpoint)
		err := tx.Bucket(bucketEndpoints).ForEach(func(k, v []byte) error {
			var st stored
			if err := json.Unmarshal(v, &st); err != nil || st.ID != string(k) || len(st.Secrets) == 0 {
				// Without it, its queue would belong to nobody.
				return fmt.Errorf("endpoint %.64q cannot be read: %w", k, errors.Join(errRecord, err))
			}
			st.setDefaults()
			ep := &endpoint{stored: st}
			s.endpoints[st.ID], byNum[st.Num] = ep, ep
			s.lastNum = max(s.lastNum, st.Num)
			return nil
		})
		if err != nil {
			return err
		}
		entries := func(bucket []byte, add func(ep *endpoint, e entry)) {
			_ = tx.Bucket(bucket).ForEach(func(k, v []byte) error {
				num, seq, ok := parseKey(k)
				e, err := parseEntry(seq, v)
				ep := byNum[num]
				switch {
				case !ok || err != nil:
					skipped++
				case ep == nil:
					orphan(bucket, k)
				default:
					add(ep, s.clock.restore(e, ep))
				}
				return nil
			})
		}
		entries(bucketQueue, func(ep *endpoint, e entry) {
			s.retain(e.seq)
			s.count(ep, e, 1)
			ep.push(e)
		})
		_ = tx.Bucket(bucketDead).ForEach(func(k, _ []byte) error {
			if num, seq, ok := parseKey(k); ok && byNum[num] != nil {
				s.retain(seq)
				byNum[num].dead++
			} else {
				orphan(bucketDead, k)
			}
			return nil
		})
		entries(bucketKept, func(ep *endpoint, e entry) {
			s.countKept(ep, e, 1)
			ep.kept = append(ep.kept, e)
		})
		for _, ep := range byNum {
			ep.putKept(nil) // in the order of delivery
		}
		_ = tx.Bucket(bucketAttempts).ForEach(func(k, _ []byte) error {
			if num, n, ok := parseKey(k); ok && byNum[num] != nil {
				byNum[num].tries = n
			} else {
				orphan(bucketAttempts, k)
			}
			return nil
		})
		_ = tx.Bucket(bucketMessages).ForEach(func(k, v []byte) error {
			if len(k) != 8 {
				skipped++
				return nil
			}
			seq := binary.BigEndian.Uint64(k)
			s.seq = max(s.seq, seq)
			ref, ok := s.refs[seq]
			if !ok {
				orphan(bucketMessages, k)
				return nil
			}
			ref.size = uint32(len(v))
			s.refs[seq] = ref
			if ref.n > 0 {
				s.bytes += int64(len(v))
			}
			return nil
		})
		return tx.Bucket(bucketRecent).ForEach(func(k, v []byte) error {
			if len(k) == 8 && len(v) == len(recentKey{}) {
				s.recent[recentKey(v)] = true
				s.recents = append(s.recents, recentKey(v))
				s.nextRecent = binary.BigEndian.Uint64(k)
			}
			return nil
		})
	})
	if err != nil {
		return err
	}
	if skipped > 0 {
		s.log.Error("webhook store: records that cannot be read", "records", skipped)
	}
	if len(orphans) == 0 {
		return nil
	}
	return s.db.Update(func(tx *bolt.Tx) error {
		for bucket, keys := range orphans {
			for _, k := range keys {
				if err := del(tx, []byte(bucket), k); err != nil {
					return err
				}
			}
		}
		return nil
	})
}
