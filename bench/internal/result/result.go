// Package result is what a measurement came to: the form in which the load
// client reports, and in which result files keep it.
package result

import "github.com/holdfast/holdfast/bench/internal/hist"

// Load is the report of one run of the load client. Parts that the scenario
// does not have are nil.
type Load struct {
	Scenario string    `json:"scenario"`
	Setup    *Setup    `json:"setup,omitempty"`
	Memory   []Memory  `json:"memory,omitempty"`
	Paced    *Delivery `json:"paced,omitempty"` // at a given rate
	Burst    *Delivery `json:"burst,omitempty"` // as fast as publishes are taken
	Requests *Requests `json:"requests,omitempty"`
	Ramp     []Step    `json:"ramp,omitempty"`
	Stuck    *Stuck    `json:"stuck,omitempty"`
	// ClientCPU is the processor time of the load client itself, for judging
	// how much of the machine was left to the server.
	ClientCPU float64 `json:"client_cpu_s"`
}

// Setup tells how connections came to be held.
type Setup struct {
	Asked     int     `json:"asked"`
	Ready     int     `json:"ready"`
	Failed    int     `json:"failed"`        // attempts that ended before they were ready
	Dropped   int     `json:"dropped"`       // connections lost later, through no publish
	Why       string  `json:"why,omitempty"` // the first of those was lost
	Seconds   float64 `json:"seconds"`       // until the last was ready
	PerSecond float64 `json:"per_second"`
	CPU       float64 `json:"server_cpu_s,omitempty"`
}

// Memory is the memory of all processes of the server with some connections held.
type Memory struct {
	Connections int   `json:"connections"`
	Bytes       int64 `json:"bytes"`
	// Kernel is what the kernel of the whole machine keeps for itself, both ends
	// of each connection included.
	Kernel int64 `json:"kernel,omitempty"`
}

// Delivery tells what publishing came to.
type Delivery struct {
	Published  uint64  `json:"published"`
	Refused    uint64  `json:"refused"`  // publishes that the server did not take
	Expected   uint64  `json:"expected"` // deliveries
	Delivered  uint64  `json:"delivered"`
	Lost       uint64  `json:"lost"`
	Duplicates uint64  `json:"duplicates"`
	Reordered  uint64  `json:"reordered"`
	Seconds    float64 `json:"seconds"` // from the first publish to the last delivery
	PerSecond  float64 `json:"deliveries_per_second"`
	// PublishesPerSecond counts accepted publishes while publishing went on.
	PublishesPerSecond float64      `json:"publishes_per_second"`
	CPU                float64      `json:"server_cpu_s"`
	CPUPerDelivery     float64      `json:"server_cpu_us_per_delivery"`
	Latency            hist.Summary `json:"latency"` // from publish begun to message read
}

// Requests tells what a closed loop of requests came to.
type Requests struct {
	Connections   int          `json:"connections"`
	Done          uint64       `json:"done"`
	Failed        uint64       `json:"failed"`
	Seconds       float64      `json:"seconds"`
	PerSecond     float64      `json:"per_second"`
	MBPerSecond   float64      `json:"mb_per_second"` // body bytes
	CPU           float64      `json:"server_cpu_s"`
	CPUPerRequest float64      `json:"server_cpu_us_per_request"`
	Latency       hist.Summary `json:"latency"`
}

// Step is a rate that was tried.
type Step struct {
	Rate     float64 `json:"rate"`          // publishes a second
	End      string  `json:"end,omitempty"` // why no higher one was tried: refused, behind (with publishing), lost or late
	Delivery `json:"delivery"`
}

// Stuck tells what clients that do not read cost the others. It holds
// deliveries to the others only.
type Stuck struct {
	Connections int        `json:"connections"` // that do not read
	Others      int        `json:"others"`
	Without     []Delivery `json:"without"` // round by round, everybody reads
	With        []Delivery `json:"with"`    // in turn with that
	Cutting     *Delivery  `json:"cutting"` // while the server cuts them off
	CaughtUp    uint64     `json:"caught_up"`
	Missed      uint64     `json:"missed"`  // of what they should have read, once they read again
	CutOff      int        `json:"cut_off"` // in the end
}
