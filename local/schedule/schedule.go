// Package schedule invokes functions at their rates, as EventBridge does. The first time is one period
// after the start.
package schedule

import (
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/aws/aws-lambda-go/events"
	"github.com/google/uuid"

	"cjj365.cc/bb/local/template"
)

// Start invokes until stop is called. invoke must not wait for the function: EventBridge does not either.
func Start(t *template.Template, invoke func(function string, event []byte)) (stop func()) {
	stopped := make(chan struct{})
	var wg sync.WaitGroup
	for _, s := range t.Schedules {
		ticker := time.NewTicker(s.Every)
		wg.Go(func() {
			defer ticker.Stop()
			for {
				select {
				case at := <-ticker.C:
					invoke(s.Function, Event(t, s, at))
				case <-stopped:
					return
				}
			}
		})
	}
	return func() {
		close(stopped)
		wg.Wait()
	}
}

// Event is what the function is invoked with at a time.
func Event(t *template.Template, s template.Schedule, at time.Time) []byte {
	if s.Input != "" {
		return []byte(s.Input)
	}
	event := events.CloudWatchEvent{
		Version:    "0",
		ID:         uuid.NewString(),
		DetailType: "Scheduled Event",
		Source:     "aws.events",
		AccountID:  t.Account,
		Time:       at.UTC().Truncate(time.Second),
		Region:     t.Region,
		Resources:  []string{s.ARN},
		Detail:     json.RawMessage(`{}`),
	}
	if s.Scheduler {
		event.Source, event.Detail = "aws.scheduler", json.RawMessage(`"{}"`)
	}
	data, err := json.Marshal(event)
	if err != nil {
		panic(fmt.Sprint("an event of plain values: ", err))
	}
	return data
}
