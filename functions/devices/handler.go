package main

import (
	"context"
	"encoding/base64"
	"errors"
	"log/slog"
	"time"

	"cjj365.cc/bb/shared/access"
	"cjj365.cc/bb/shared/bundle"
	"cjj365.cc/bb/shared/certificate/record"
	"cjj365.cc/bb/shared/delivery"
	"cjj365.cc/bb/shared/device"
	"cjj365.cc/bb/shared/devicetoken"
	"cjj365.cc/bb/shared/problem"
	"cjj365.cc/bb/shared/store"
	"cjj365.cc/bb/shared/wire"
)

type handler struct {
	store    *store.Store
	tokens   *devicetoken.Signer
	delivery *delivery.Worker
	bundles  *bundle.Maker
	log      *slog.Logger
	now      func() time.Time
}

func (h *handler) routes() *wire.API {
	const devices, one = "/apiv1/users/{user_id}/devices", "/apiv1/users/{user_id}/devices/{device_id}"
	read := wire.Rule{Type: "devices", Action: access.Read, Object: "device_id"}
	write := wire.Rule{Type: "devices", Action: access.Write, Object: "device_id"}
	registers := wire.Rule{Type: "devices", Action: access.Write, Or: access.Need{Type: authenticates, Action: access.Authenticate}}
	changes := registers
	changes.Some = true
	a := wire.New()
	wire.Register(a, wire.Operation{
		Method: "POST", Path: "/apiv1/device/registration", ID: "register-device", Rule: wire.Rule{Public: true},
		Summary: "Register a device with a code", Description: "The proof is in the body: user_id with a registration code, or the refresh token of the device. The same code and device again, within the code's lifetime, gets a new session.",
	}, h.registerByCode)
	wire.Register(a, wire.Operation{
		Method: "GET", Path: devices, ID: "list-devices", Rule: wire.Rule{Type: "devices", Action: access.Read},
		Summary: "List devices", Description: "Newest first; revoked ones with status=REVOKED.",
	}, h.list)
	wire.Register(a, wire.Operation{
		Method: "POST", Path: devices, ID: "create-device", Rule: registers,
		Summary: "Register a device", Description: "An API key needs no code. A session needs a registration code for a device that is new.",
	}, h.registerHere)
	wire.Register(a, wire.Operation{
		Method: "GET", Path: one, ID: "get-device", Rule: read,
		Summary: "Get a device", Description: "With what it is to have of each certificate, and what it says it has.",
	}, h.get)
	wire.Register(a, wire.Operation{
		Method: "DELETE", Path: one, ID: "revoke-device", Status: 204,
		Rule:    wire.Rule{Type: "devices", Action: access.Write, Object: "device_id", Or: access.Need{Type: authenticates, Action: access.Revoke}},
		Summary: "Revoke a device", Description: "Its tokens are refused from now on. With ForDeviceAuthenticate.revoke, one that the key registered.",
	}, h.revoke)
	wire.Register(a, wire.Operation{
		Method: "GET", Path: one + "/certificates", ID: "list-device-certificates", Rule: read, Summary: "List the certificates on a device",
	}, h.certificates)
	wire.Register(a, wire.Operation{
		Method: "POST", Path: one + "/certificates", ID: "assign-certificate", Rule: write, Status: 204,
		Summary: "Assign a certificate to a device", Description: "Needs the permission `certs.read` on the certificate as well. The device is told at once, or when there is an issue.",
	}, h.assign)
	wire.Register(a, wire.Operation{
		Method: "GET", Path: one + "/certificates/{certificate_id}", ID: "get-device-certificate", Rule: read, Summary: "Get a certificate on a device",
	}, h.certificate)
	wire.Register(a, wire.Operation{
		Method: "DELETE", Path: one + "/certificates/{certificate_id}", ID: "unassign-certificate", Rule: write, Status: 204, Summary: "Take a certificate off a device",
	}, h.unassign)
	wire.Register(a, wire.Operation{
		Method: "GET", Path: one + "/certificates/{certificate_id}/bundle", ID: "get-device-bundle", Rule: read,
		Summary: "Get what a device makes a certificate's key of", Description: "Sealed to the device. Needs the permission `certs.read` on the certificate as well.",
	}, h.bundle)
	wire.Register(a, wire.Operation{
		Method: "GET", Path: one + "/cas", ID: "list-device-cas", Rule: read, Summary: "List the CAs on a device",
	}, h.cas)
	wire.Register(a, wire.Operation{
		Method: "POST", Path: one + "/cas", ID: "assign-ca", Rule: write, Status: 204,
		Summary: "Assign a CA to a device", Description: "The device trusts it from then on. Needs the permission `cas.read` on the CA as well.",
	}, h.assignCA)
	wire.Register(a, wire.Operation{
		Method: "DELETE", Path: one + "/cas/{ca_id}", ID: "unassign-ca", Rule: write, Status: 204, Summary: "Take a CA off a device",
	}, h.unassignCA)
	wire.Register(a, wire.Operation{
		Method: "GET", Path: one + "/cas/{ca_id}/bundle", ID: "get-device-ca-bundle", Rule: read, Summary: "Get a CA on a device",
	}, h.caBundle)
	wire.Register(a, wire.Operation{
		Method: "GET", Path: one + "/install-config", ID: "get-install-config", Rule: read, Summary: "Get what a device is to install",
	}, h.config)
	wire.Register(a, wire.Operation{
		Method: "PUT", Path: one + "/install-config", ID: "put-install-config", Rule: write,
		Summary: "Set what a device is to install", Description: "All of it. The version is one more than before; content that is the same makes none. With If-Match, or expected_version, only if that is the version in place.",
	}, h.putConfig)
	wire.Register(a, wire.Operation{
		Method: "POST", Path: one + "/install-config/restore", ID: "restore-install-config", Rule: write,
		Summary: "Restore an install config", Description: "Makes a new version with the content of an old one.",
	}, h.restoreConfig)
	wire.Register(a, wire.Operation{
		Method: "GET", Path: one + "/install-config-histories", ID: "list-install-configs", Rule: read, Summary: "List the versions of an install config", Description: "Newest first. A page of large ones is shorter than limit.",
	}, h.configs)
	wire.Register(a, wire.Operation{
		Method: "POST", Path: "/apiv1/me/devices", ID: "register-my-device", Rule: registers, Summary: "Register a device with an API key",
	}, h.registerMine)
	wire.Register(a, wire.Operation{
		Method: "POST", Path: "/apiv1/me/certificate-assign", ID: "assign-my-certificates", Rule: changes,
		Summary: "Assign the key's certificates to a device", Description: "Those that the API key's permissions name by id. Without devices.write, to a device that the key registered.",
	}, h.assignMine)
	wire.Register(a, wire.Operation{
		Method: "POST", Path: "/apiv1/me/install-config-update/{device_public_id}", ID: "patch-my-install-config", Rule: changes,
		Summary: "Change items of what a device installs", Description: "Patches match items by ob_type and ob_id, and id if given. Without devices.write, of a device that the key registered.",
	}, h.patchConfig)
	return a
}

// authenticates is the type of the permission of keys that register devices.
const authenticates = "ForDeviceAuthenticate"

// Device is a device as the API shows it (contract §11). Times are epoch milliseconds, 0 for none.
type Device struct {
	ID           int64  `json:"id"`
	User         int64  `json:"user_id"`
	PublicID     string `json:"device_public_id"`
	Name         string `json:"name"`
	Platform     string `json:"platform"`
	Model        string `json:"model"`
	App          string `json:"app_version"`
	IP           string `json:"ip"`
	UserAgent    string `json:"user_agent"`
	Status       string `json:"status" enum:"ACTIVE,REVOKED"`
	KeyPrint     string `json:"device_keyfp_b64" doc:"BLAKE2b-256 of its public key."`
	Agent        string `json:"agent_version"`
	LastSeen     int64  `json:"last_seen_at" doc:"Sampled: every six hours."`
	Certificates int    `json:"cert_count"`
	CAs          int    `json:"ca_count"`
	By           int64  `json:"registered_by_apikey_id" doc:"0 for a person."`
	CreatedAt    int64  `json:"created_at"`
	UpdatedAt    int64  `json:"updated_at"`
	RevokedAt    int64  `json:"revoked_at"`
}

func show(d device.Device, head device.Head) Device {
	return Device{
		ID: d.ID, User: d.User, PublicID: d.PublicID, Name: d.Name, Platform: d.Platform, Model: d.Model, App: d.App, IP: d.IP, UserAgent: d.UserAgent,
		Status: string(d.Status()), KeyPrint: base64.StdEncoding.EncodeToString(device.Fingerprint(d.Key)), Agent: head.Agent, LastSeen: millis(head.SeenAt),
		Certificates: head.Certificates, CAs: head.CAs, By: d.By, CreatedAt: millis(d.CreatedAt), UpdatedAt: millis(d.UpdatedAt), RevokedAt: millis(d.RevokedAt),
	}
}

func millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// Path is the path parameters of one device.
type Path struct {
	User int64 `path:"user_id" minimum:"1" maximum:"9007199254740991"`
	ID   int64 `path:"device_id" minimum:"1" maximum:"9007199254740991"`
}

// ListRequest is a list's request.
type ListRequest struct {
	User int64 `path:"user_id" minimum:"1" maximum:"9007199254740991"`
	wire.Paging
	Status string `query:"status" enum:"ACTIVE,REVOKED,LOST" default:"ACTIVE" doc:"None is LOST."`
}

type listResponse struct{ Body wire.List[Device] }

func (h *handler) list(ctx context.Context, in *ListRequest) (*listResponse, error) {
	page, total, err := h.store.Devices(ctx, in.User, device.Status(in.Status), in.Offset, in.Limit)
	if err != nil {
		return nil, err
	}
	ids := make([]int64, len(page))
	for i, d := range page {
		ids[i] = d.ID
	}
	heads, err := h.store.Heads(ctx, ids)
	if err != nil {
		return nil, err
	}
	all := make([]Device, len(page))
	for i, d := range page {
		all[i] = show(d, heads[i])
	}
	return &listResponse{wire.List[Device]{Data: all, Meta: wire.Meta{Total: total, Offset: in.Offset, Limit: in.Limit}}}, nil
}

// Truth is what a device is to have of a certificate, and what it says it has. Times are epoch milliseconds.
type Truth struct {
	Certificate int64  `json:"cert_id"`
	State       string `json:"state" enum:"WAITING,TOLD,FETCHED,INSTALLED,FAILED"`
	UpToDate    bool   `json:"up_to_date" doc:"It has what it is to have. A device that never reports installations is taken at having fetched it."`
	Desired     int64  `json:"desired_issue" doc:"Number of the issue that it is to have; 0 while there is none."`
	WrapReady   bool   `json:"wrap_ready"`
	ToldAt      int64  `json:"told_at"`
	Fetched     int64  `json:"fetched_issue"`
	FetchedAt   int64  `json:"fetched_at"`
	Reported    int64  `json:"reported_issue"`
	Fingerprint string `json:"reported_fingerprint_sha256"`
	Error       string `json:"reported_error"`
	ReportedAt  int64  `json:"reported_at"`
}

func truth(a device.Assignment) Truth {
	return Truth{
		Certificate: a.Certificate, State: string(a.State()), UpToDate: a.Issue == 0 || a.Done(), Desired: a.Issue, WrapReady: a.Ready(), ToldAt: millis(a.ToldAt),
		Fetched: a.Fetched, FetchedAt: millis(a.FetchedAt), Reported: a.Report.Issue, Fingerprint: a.Report.Fingerprint, Error: a.Report.Error, ReportedAt: millis(a.Report.At),
	}
}

// Detail is a device with what is on it.
type Detail struct {
	Device
	Assignments []Truth `json:"certificates"`
}

type getResponse struct{ Body wire.Data[Detail] }

func (h *handler) get(ctx context.Context, in *Path) (*getResponse, error) {
	d, err := h.delivery.Device(ctx, in.User, in.ID)
	if err != nil {
		return nil, err
	}
	head, err := h.store.Head(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	detail := Detail{Device: show(d, head), Assignments: []Truth{}}
	ids, err := h.store.CertificatesOn(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	for begin := 0; begin < len(ids); begin += 100 {
		some := ids[begin:min(begin+100, len(ids))]
		all, err := h.store.AssignmentsOn(ctx, in.ID, some)
		if err != nil {
			return nil, err
		}
		for _, id := range some {
			if a, ok := all[id]; ok {
				detail.Assignments = append(detail.Assignments, truth(a))
			}
		}
	}
	return &getResponse{wire.Data[Detail]{Data: detail}}, nil
}

// gone is the answer when a device was revoked while something was done for it.
func gone(err error) error {
	if errors.Is(err, store.ErrNotFound) {
		return delivery.ErrRevoked
	}
	return err
}

func (h *handler) revoke(ctx context.Context, in *Path) (*struct{}, error) {
	d, err := h.delivery.Device(ctx, in.User, in.ID)
	if err != nil {
		return nil, err
	}
	caller, _ := access.FromContext(ctx)
	if !caller.Allow(access.Need{Type: "devices", Action: access.Write, ID: in.ID}) && d.By != caller.ID {
		return nil, problem.Lacking("devices.write")
	}
	if d.Status() == device.Revoked { // what a crash left on it is taken off now
		return nil, h.delivery.Clear(ctx, d.ID)
	}
	for try := 0; ; try++ {
		_, err = h.store.RevokeDevice(ctx, d, h.now())
		if !errors.Is(err, store.ErrConflict) || try == 5 {
			break
		}
		if d, err = h.store.Device(ctx, in.User, in.ID); err != nil || d.Status() == device.Revoked {
			break
		}
	}
	if errors.Is(err, store.ErrConflict) {
		return nil, errBusy
	}
	if err != nil {
		return nil, err
	}
	h.audit(ctx, "revoked", d)
	if err := h.delivery.Clear(ctx, d.ID); err != nil { // taken off by whoever comes across it
		h.log.WarnContext(ctx, "a revoked device has certificates left", "device", d.ID, "error", err.Error())
	}
	return nil, nil
}

var errBusy = problem.Unavailable.New("Too many changes of the device at the same time; try again.")

// audit writes the line that each change of a device leaves.
func (h *handler) audit(ctx context.Context, change string, d device.Device, more ...slog.Attr) {
	principal := "registration"
	if caller, ok := access.FromContext(ctx); ok {
		principal = caller.Principal()
	}
	h.log.LogAttrs(ctx, slog.LevelInfo, "device "+change, append([]slog.Attr{
		slog.Int64("user", d.User), slog.Int64("id", d.ID), slog.String("principal", principal),
	}, more...)...)
}

// certificate shows one.
type certificateResponse struct{ Body wire.Data[OnDevice] }

// OnDevice is a certificate's record with how the device stands to it.
type OnDevice struct {
	record.Certificate
	Truth Truth `json:"device"`
}
