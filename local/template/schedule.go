package template

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"strconv"
	"time"

	"go.yaml.in/yaml/v3"
)

// schedule reads an event of type Schedule, which SAM makes an EventBridge rule.
func (r *reader) schedule(d *resource, name, n *yaml.Node) error {
	enabled := true
	s := Schedule{Name: r.stack + "-" + d.id + name.Value}
	if err := r.readSchedule(d, n, &s, "Schedule", fields{"Enabled": &enabled}); err != nil || !enabled {
		return err
	}
	r.addSchedule(s, "arn:aws:events:%s:%s:rule/%s")
	return nil
}

// scheduleV2 reads an event of type ScheduleV2, which SAM makes a schedule of EventBridge Scheduler.
func (r *reader) scheduleV2(d *resource, name, n *yaml.Node) error {
	s := Schedule{Name: r.stack + "-" + d.id + name.Value, Scheduler: true}
	err := r.readSchedule(d, n, &s, "ScheduleExpression", fields{
		"FlexibleTimeWindow":         skipped,
		"OmitName":                   skipped,
		"PermissionsBoundary":        skipped,
		"RoleArn":                    skipped,
		"ScheduleExpressionTimezone": skipped, // a rate has none
	})
	if err != nil {
		return err
	}
	r.addSchedule(s, "arn:aws:scheduler:%s:%s:schedule/default/%s")
	return nil
}

// readSchedule reads what both types have, and the properties of one. Every is 0 for one that is disabled.
func (r *reader) readSchedule(d *resource, n *yaml.Node, s *Schedule, expressionName string, properties fields) error {
	var expression, state string
	maps.Copy(properties, fields{
		expressionName: &expression,
		"Input":        &s.Input,
		"Name":         &s.Name,
		"State":        &state,

		"DeadLetterConfig": skipped,
		"Description":      skipped,
		"RetryPolicy":      skipped, // an invocation that failed is not repeated here
	})
	if err := r.fields(n, d.id, properties); err != nil {
		return err
	}
	if state != "" && state != "ENABLED" && state != "DISABLED" {
		return r.errorf(n, "%s: State must be ENABLED or DISABLED", d.id)
	}
	if s.Input != "" && !json.Valid([]byte(s.Input)) {
		return r.errorf(n, "%s: Input must be JSON", d.id)
	}
	every, err := r.rate(n, expression)
	if err != nil {
		return err
	}
	s.Function = d.id
	if state != "DISABLED" {
		s.Every = every
	}
	return nil
}

func (r *reader) addSchedule(s Schedule, arn string) {
	s.ARN = fmt.Sprintf(arn, region, account, s.Name)
	if s.Every > 0 {
		r.schedules = append(r.schedules, s)
	}
}

var rates = regexp.MustCompile(`^rate\(([1-9][0-9]{0,5}) (minute|hour|day)(s?)\)$`)

// rate reads rate(5 minutes). AWS wants the unit to agree with the number.
func (r *reader) rate(n *yaml.Node, expression string) (time.Duration, error) {
	m := rates.FindStringSubmatch(expression)
	if m == nil || (m[1] == "1") != (m[3] == "") {
		return 0, r.errorf(n, "%q: the only schedules understood here are rate(1 minute), rate(5 minutes), hours and days alike", expression)
	}
	count, err := strconv.Atoi(m[1])
	if err != nil {
		return 0, r.errorf(n, "%q: %w", expression, err)
	}
	unit := map[string]time.Duration{"minute": time.Minute, "hour": time.Hour, "day": 24 * time.Hour}[m[2]]
	return time.Duration(count) * unit, nil
}
