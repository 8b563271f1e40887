//go:build linux

// Package proc reads what a group of processes has used: processor time from
// /proc/PID/stat and proportional memory from /proc/PID/smaps_rollup. Shared
// pages are counted once over the group, as PSS divides them.
package proc

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// clockTick is USER_HZ, which Linux fixes at 100 for every program.
const clockTick = time.Second / 100

// Usage is what a process, or a group of them, has used so far.
type Usage struct {
	CPU   time.Duration // user and system
	Bytes int64         // PSS
}

// Tree returns the given processes and all their descendants.
func Tree(roots ...int) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	children := map[int][]int{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		f, err := stat(pid)
		if err != nil {
			continue // it ended meanwhile
		}
		ppid, err := strconv.Atoi(f[1])
		if err != nil {
			return nil, fmt.Errorf("parent of %d: %w", pid, err)
		}
		children[ppid] = append(children[ppid], pid)
	}
	seen := map[int]bool{}
	var all []int
	var add func(int)
	add = func(pid int) {
		if seen[pid] {
			return
		}
		seen[pid] = true
		all = append(all, pid)
		for _, c := range children[pid] {
			add(c)
		}
	}
	for _, r := range roots {
		add(r)
	}
	return all, nil
}

// Read sums the usage of the given processes and all their descendants.
func Read(roots ...int) (Usage, error) {
	pids, err := Tree(roots...)
	if err != nil {
		return Usage{}, err
	}
	var sum Usage
	for _, pid := range pids {
		u, err := readOne(pid)
		if gone(err) {
			continue
		}
		if err != nil {
			return sum, fmt.Errorf("usage of process %d: %w", pid, err)
		}
		sum.CPU += u.CPU
		sum.Bytes += u.Bytes
	}
	return sum, nil
}

func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH)
}

func readOne(pid int) (Usage, error) {
	cpu, err := CPU(pid)
	if err != nil {
		return Usage{}, err
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return Usage{}, err
	}
	kib, err := pss(b)
	return Usage{CPU: cpu, Bytes: kib << 10}, err
}

// CPU is the user and system time of one process.
func CPU(pid int) (time.Duration, error) {
	f, err := stat(pid)
	if err != nil {
		return 0, err
	}
	// Fields 14 and 15 of the file, utime and stime; f begins with field 3.
	var ticks int64
	for _, s := range f[11:13] {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * clockTick, nil
}

// stat returns the fields after the command, which may hold spaces itself.
func stat(pid int) ([]string, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, err
	}
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(f) < 13 {
		return nil, fmt.Errorf("stat of %d: %d fields", pid, len(f))
	}
	return f, nil
}

// pss finds the line "Pss: N kB".
func pss(rollup []byte) (int64, error) {
	for line := range bytes.Lines(rollup) {
		if v, ok := bytes.CutPrefix(line, []byte("Pss:")); ok {
			v, _ = bytes.CutSuffix(bytes.TrimSpace(v), []byte(" kB"))
			return strconv.ParseInt(string(bytes.TrimSpace(v)), 10, 64)
		}
	}
	return 0, nil // a zombie or a kernel thread has no mappings
}

// Total is the time that the processors of the machine have been busy since it
// started, with the time that a hypervisor took from them.
func Total() (time.Duration, error) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	f := strings.Fields(string(b)) // cpu user nice system idle iowait irq softirq steal ...
	if len(f) < 9 {
		return 0, errors.New("/proc/stat is too short")
	}
	var ticks int64
	for _, s := range append(f[1:4:4], f[6:9]...) {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * clockTick, nil
}

// Kernel is the memory in the slabs of the kernel: sockets, file descriptors and
// the like, of all processes. Pages of socket buffers are not in it.
func Kernel() (int64, error) {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(b) {
		if v, ok := bytes.CutPrefix(line, []byte("Slab:")); ok {
			v, _ = bytes.CutSuffix(bytes.TrimSpace(v), []byte(" kB"))
			kib, err := strconv.ParseInt(string(bytes.TrimSpace(v)), 10, 64)
			return kib << 10, err
		}
	}
	return 0, errors.New("no Slab in /proc/meminfo")
}
