package template

import (
	"fmt"
	"slices"
	"time"

	"go.yaml.in/yaml/v3"
)

func (r *reader) queue(d *resource, properties *yaml.Node) (Queue, error) {
	q := Queue{LogicalID: d.id}
	visibility, retention, delay := 30, 345600, 0 // SQS's defaults, in seconds
	err := r.fields(properties, d.id, fields{
		"DelaySeconds":           &delay,
		"KmsMasterKeyId":         &q.Key,
		"MessageRetentionPeriod": &retention,
		"RedrivePolicy": func(n *yaml.Node) error {
			return r.fields(n, "RedrivePolicy", fields{"deadLetterTargetArn": &q.DeadLetters, "maxReceiveCount": &q.MaxReceives})
		},
		"VisibilityTimeout": &visibility,

		"KmsDataKeyReusePeriodSeconds":  skipped,
		"QueueName":                     skipped, // read where names are resolved
		"ReceiveMessageWaitTimeSeconds": skipped, // who receives here says how long it waits
		"RedriveAllowPolicy":            skipped,
		"SqsManagedSseEnabled":          skipped,
		"Tags":                          skipped,
	})
	if err != nil {
		return q, err
	}
	if visibility < 0 || visibility > 43200 || retention < 60 || retention > 1209600 || delay < 0 || delay > 900 {
		return q, r.errorf(d.at, "%s: SQS allows a visibility timeout up to 43200 s, a retention of 60 to 1209600 s and a delay up to 900 s", d.id)
	}
	if (q.DeadLetters == "") != (q.MaxReceives == 0) || q.MaxReceives < 0 || q.MaxReceives > 1000 {
		return q, r.errorf(d.at, "%s: a RedrivePolicy has a deadLetterTargetArn and a maxReceiveCount of 1 to 1000", d.id)
	}
	seconds := func(n int) time.Duration { return time.Duration(n) * time.Second }
	q.VisibilityTimeout, q.Retention, q.Delay = seconds(visibility), seconds(retention), seconds(delay)
	if q.Name, err = r.physical(d.at, d.id); err != nil {
		return q, err
	}
	q.URL = queueURL(q.Name)
	q.ARN, err = r.attribute(d.at, d.id, "Arn")
	return q, err
}

func queueURL(name string) string {
	return fmt.Sprintf("https://sqs.%s.amazonaws.com/%s/%s", region, account, name)
}

// A source is an event source mapping with its place in the template.
type source struct {
	EventSource
	at *yaml.Node
}

// sqsEvent reads an event of type SQS.
func (r *reader) sqsEvent(d *resource, n *yaml.Node) error {
	s := source{EventSource{Function: d.id, BatchSize: 10}, n}
	enabled := true
	var window int
	var responses []string
	err := r.fields(n, d.id, fields{
		"BatchSize":                      &s.BatchSize,
		"Enabled":                        &enabled,
		"FunctionResponseTypes":          &responses,
		"MaximumBatchingWindowInSeconds": &window,
		"Queue":                          &s.Queue,
		"ScalingConfig": func(n *yaml.Node) error {
			return r.fields(n, "ScalingConfig", fields{"MaximumConcurrency": &s.MaxConcurrency})
		},
	})
	if err != nil || !enabled {
		return err
	}
	for _, response := range responses {
		if response != "ReportBatchItemFailures" {
			return r.errorf(n, "%s: the only FunctionResponseTypes is ReportBatchItemFailures", d.id)
		}
		s.ReportsFailures = true
	}
	switch {
	case s.BatchSize < 1 || s.BatchSize > 10000 || s.BatchSize > 10 && window == 0 || window < 0 || window > 300:
		return r.errorf(n, "%s: Lambda allows a BatchSize of 1 to 10, up to 10000 with a MaximumBatchingWindowInSeconds, which is at most 300", d.id)
	case s.MaxConcurrency != 0 && (s.MaxConcurrency < 2 || s.MaxConcurrency > 1000):
		return r.errorf(n, "%s: Lambda allows a MaximumConcurrency of 2 to 1000", d.id)
	}
	s.Window = time.Duration(window) * time.Second
	r.sources = append(r.sources, s)
	return nil
}

// joinSources finds the queue of each event source mapping, and refuses what Lambda refuses.
func (r *reader) joinSources(t *Template) error {
	for _, s := range r.sources {
		i := slices.IndexFunc(t.Queues, func(q Queue) bool { return q.ARN == s.Queue })
		if i < 0 {
			return r.errorf(s.at, "%s: %q is not the ARN of a queue of this template", s.Function, s.Queue)
		}
		f, _ := t.Function(s.Function)
		if t.Queues[i].VisibilityTimeout < f.Timeout {
			return r.errorf(s.at, "%s: the visibility timeout of %s (%s) is less than the function's timeout (%s)",
				s.Function, t.Queues[i].LogicalID, t.Queues[i].VisibilityTimeout, f.Timeout)
		}
		t.Sources = append(t.Sources, s.EventSource)
	}
	for _, q := range t.Queues {
		if q.DeadLetters != "" && !slices.ContainsFunc(t.Queues, func(other Queue) bool { return other.ARN == q.DeadLetters }) {
			return r.errorf(r.resources[q.LogicalID].at, "%s: %q is not the ARN of a queue of this template", q.LogicalID, q.DeadLetters)
		}
	}
	return nil
}

// events reads a function's events. Routes are added through apis.
func (r *reader) events(apis apiReaders, d *resource, events *yaml.Node) error {
	routes := &yaml.Node{Kind: yaml.MappingNode, Line: events.Line}
	for name, event := range pairs(events) {
		var kind string
		properties := &yaml.Node{Kind: yaml.MappingNode, Line: name.Line}
		err := r.fields(event, name.Value, fields{"Type": &kind, "Properties": &properties})
		if err != nil {
			return err
		}
		switch kind {
		case "SQS":
			err = r.sqsEvent(d, properties)
		case "Schedule":
			err = r.schedule(d, name, properties)
		case "ScheduleV2":
			err = r.scheduleV2(d, name, properties)
		default:
			routes.Content = append(routes.Content, name, event)
		}
		if err != nil {
			return err
		}
	}
	return apis.events(r, d, routes)
}
