package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A quota is a cgroup whose processes share a part of one processor, as Lambda gives a function by its
// memory.
type quota struct{ folder string }

// quotaPeriod is the time in which the part is granted, as Lambda seems to do.
const quotaPeriod = 20 * time.Millisecond

// oneCPU is the memory, in MB, at which Lambda gives a whole processor.
const oneCPU = 1769

// newQuota makes the quota of a function with so much memory; an error if this system allows none.
func newQuota(memory int) (*quota, error) {
	parent, unified, err := cpuGroup()
	if err != nil {
		return nil, err
	}
	q := &quota{filepath.Join(parent, fmt.Sprintf("bb-bench-%d-%d", os.Getpid(), memory))}
	if err := os.Mkdir(q.folder, 0o755); err != nil {
		return nil, err
	}
	period := quotaPeriod.Microseconds()
	part := period * int64(memory) / oneCPU
	if unified {
		err = q.write("cpu.max", fmt.Sprintf("%d %d", part, period))
	} else {
		err = errors.Join(q.write("cpu.cfs_period_us", strconv.FormatInt(period, 10)), q.write("cpu.cfs_quota_us", strconv.FormatInt(part, 10)))
	}
	if err != nil {
		q.remove()
		return nil, err
	}
	return q, nil
}

// hold puts a process, all its threads, under the quota.
func (q *quota) hold(pid int) error { return q.write("cgroup.procs", strconv.Itoa(pid)) }

func (q *quota) write(name, value string) error {
	return os.WriteFile(filepath.Join(q.folder, name), []byte(value), 0)
}

// remove works when the processes are gone.
func (q *quota) remove() { _ = os.Remove(q.folder) }

// cpuGroup finds this process's cgroup that limits processor time, of version 1 or, unified, 2.
func cpuGroup() (folder string, unified bool, err error) {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return "", false, err
	}
	groups, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", false, err
	}
	for mount := range strings.Lines(string(mounts)) {
		f := strings.Fields(mount) // device, folder, type, options
		if len(f) < 4 {
			continue
		}
		switch {
		case f[2] == "cgroup" && slices.Contains(strings.Split(f[3], ","), "cpu"):
			return filepath.Join(f[1], ownGroup(string(groups), "cpu")), false, nil
		case f[2] == "cgroup2":
			folder := filepath.Join(f[1], ownGroup(string(groups), ""))
			if hasCPU(folder) {
				return folder, true, nil
			}
		}
	}
	return "", false, fmt.Errorf("cgroup: %w", fs.ErrNotExist)
}

// ownGroup reads the path of a controller's group from lines such as 1:cpu,cpuacct:/a; the unified
// one has no name.
func ownGroup(groups, controller string) string {
	for text := range strings.Lines(groups) {
		f := strings.SplitN(strings.TrimSpace(text), ":", 3)
		if len(f) == 3 && slices.Contains(strings.Split(f[1], ","), controller) {
			return f[2]
		}
	}
	return "/"
}

// hasCPU reports whether children of a unified group may limit processor time, asking for it if not.
func hasCPU(folder string) bool {
	file := filepath.Join(folder, "cgroup.subtree_control")
	if enabled, err := os.ReadFile(file); err == nil && slices.Contains(strings.Fields(string(enabled)), "cpu") {
		return true
	}
	return os.WriteFile(file, []byte("+cpu"), 0) == nil
}
