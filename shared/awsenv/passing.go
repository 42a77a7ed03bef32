package awsenv

import (
	"context"
	"errors"
	"net"
	"slices"

	"github.com/aws/smithy-go"
)

// Passing tells whether a call of a service failed for a reason that may be gone in a moment: the network's, the
// service's own, or one that the service names by one of the codes.
func Passing(err error, codes ...string) bool {
	var network net.Error
	var api smithy.APIError
	return errors.As(err, &network) || errors.Is(err, context.DeadlineExceeded) ||
		errors.As(err, &api) && (api.ErrorFault() == smithy.FaultServer || slices.Contains(codes, api.ErrorCode()))
}
