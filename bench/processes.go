package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// tick is the unit in which Linux tells processor times to programs, on every architecture.
const tick = 10 * time.Millisecond

// A usage is the user and system time that a process has had, its ended threads included.
type usage struct {
	program string // for a function its logical id
	parent  int
	time    time.Duration
}

// usageBelow is the usage of a process and of all below it, by their ids.
func usageBelow(root int) (map[int]usage, error) {
	all := map[int]usage{}
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	for _, file := range stats {
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil {
			continue
		}
		if u, err := usageOf(pid); err == nil { // else it has just ended
			all[pid] = u
		}
	}
	if _, found := all[root]; !found {
		return nil, fmt.Errorf("no process %d in /proc", root)
	}
	below := map[int]usage{}
	for pid, u := range all {
		for at, found := pid, true; found; at, found = all[at].parent, all[at].parent != 0 {
			if at == root {
				below[pid] = u
				break
			}
		}
	}
	return below, nil
}

func usageOf(pid int) (usage, error) {
	folder := filepath.Join("/proc", strconv.Itoa(pid))
	stat, err := os.ReadFile(filepath.Join(folder, "stat"))
	if err != nil {
		return usage{}, err
	}
	u, err := parseStat(stat)
	if err != nil {
		return u, err
	}
	program, err := os.Readlink(filepath.Join(folder, "exe"))
	program = strings.TrimSuffix(program, " (deleted)") // built anew since
	if u.program = filepath.Base(program); u.program == "bootstrap" {
		u.program = filepath.Base(filepath.Dir(program))
	}
	return u, err
}

// parseStat reads what stands behind the name of a process, which may hold anything (proc(5)).
func parseStat(stat []byte) (u usage, err error) {
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	const parent, user, system = 4 - 3, 14 - 3, 15 - 3
	if len(fields) <= system {
		return u, fmt.Errorf("read %q: too short", stat)
	}
	var values [3]int
	for i, at := range []int{parent, user, system} {
		var bad error
		values[i], bad = strconv.Atoi(string(fields[at]))
		err = errors.Join(err, bad)
	}
	u.parent, u.time = values[0], time.Duration(values[1]+values[2])*tick
	return u, err
}

// since is what processes have used since before, by program.
func since(before, after map[int]usage) map[string]time.Duration {
	used := map[string]time.Duration{}
	for pid, u := range after {
		used[u.program] += u.time - before[pid].time
	}
	return used
}
