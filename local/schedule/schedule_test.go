package schedule_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cjj365.cc/bb/local/schedule"
	"cjj365.cc/bb/local/template"
)

var stack = &template.Template{Region: "us-east-1", Account: "123456789012", Schedules: []template.Schedule{
	{Function: "Often", Every: 5 * time.Minute, Input: "often"},
	{Function: "Seldom", Every: time.Hour, Input: "seldom"},
}}

func TestEachFunctionIsInvokedAtItsRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		counts := map[string]int{}
		invoked := make(chan string)
		stop := schedule.Start(stack, func(function string, event []byte) { invoked <- function + " " + string(event) })
		go func() {
			for call := range invoked {
				counts[call]++
			}
		}()
		time.Sleep(2*time.Hour + time.Minute)
		synctest.Wait()
		stop()
		close(invoked)
		if got := fmt.Sprint(counts); got != "map[Often often:24 Seldom seldom:2]" {
			t.Error(got)
		}
	})
}

func TestTheEventIsEventBridges(t *testing.T) {
	at := time.Date(2026, 11, 24, 3, 29, 20, 5, time.FixedZone("", 3600))
	for _, test := range []struct {
		schedule     template.Schedule
		source, want string
	}{
		{template.Schedule{ARN: "arn:rule"}, "aws.events", `"detail":{}`},
		{template.Schedule{ARN: "arn:schedule", Scheduler: true}, "aws.scheduler", `"detail":"{}"`},
	} {
		data := schedule.Event(stack, test.schedule, at)
		var event map[string]any
		if err := json.Unmarshal(data, &event); err != nil {
			t.Fatal(err)
		}
		if event["source"] != test.source || event["detail-type"] != "Scheduled Event" || event["time"] != "2026-11-24T02:29:20Z" || event["account"] != "123456789012" ||
			event["region"] != "us-east-1" || fmt.Sprint(event["resources"]) != "["+test.schedule.ARN+"]" || !strings.Contains(string(data), test.want) {
			t.Errorf("the event is %s", data)
		}
	}
}
