package record

import (
	"net/netip"
	"reflect"
	"time"

	"ingot"
	"ingot/bootserver/fleet"
)

type imageRef struct {
	Image ingot.Digest `json:"image,omitempty"`
	Name  string       `json:"name,omitempty"`
}

type assignment struct {
	imageRef
	Why   string    `json:"why,omitempty"`
	Since time.Time `json:"since,omitzero"`
}

type question struct {
	With     ingot.MachineID `json:"with"`
	What     string          `json:"what"`
	About    string          `json:"about,omitempty"`
	Reported bool            `json:"told,omitempty"`
}

type answered struct {
	About string    `json:"about"`
	At    time.Time `json:"at"`
}

type switchPort struct {
	Relay   netip.Addr `json:"relay,omitzero"`
	Circuit string     `json:"circuit,omitempty"`
	Remote  string     `json:"remote,omitempty"`
}

type failure struct {
	Boot    ingot.BootID  `json:"boot"`
	Outcome ingot.Outcome `json:"outcome"`
	Stage   ingot.Stage   `json:"stage"`
	Reason  string        `json:"reason"`
	At      time.Time     `json:"at"`
}

type trial struct {
	Image    ingot.Digest `json:"image,omitempty"`
	Failures []failure    `json:"failures,omitempty"`
}

type setback struct {
	Gave     imageRef  `json:"gave"`
	To       imageRef  `json:"to"`
	Why      string    `json:"why"`
	At       time.Time `json:"at"`
	Failures []failure `json:"failures"`
}

type grant struct {
	Volume  string       `json:"volume"`
	Disk    string       `json:"disk"`
	Expires time.Time    `json:"expires"`
	Given   time.Time    `json:"given"`
	Boot    ingot.BootID `json:"boot,omitempty"`
	Over    bool         `json:"over,omitempty"`
	Adopt   bool         `json:"adopt,omitempty"`
	Lent    ingot.BootID `json:"lent,omitempty"`
}

type claim struct {
	Running     ingot.BootID `json:"running"`
	Healthy     bool         `json:"healthy"`
	Since       time.Time    `json:"since"`
	Until       time.Time    `json:"until"`
	Orders      int          `json:"orders,omitempty"`
	Once        *once        `json:"once,omitempty"`
	Trial       *trial       `json:"trial,omitempty"`
	Setback     *setback     `json:"setback,omitempty"`
	LastHealthy imageRef     `json:"lastHealthy"`
	HealthyList []imageRef   `json:"healthyList,omitempty"`
	New         *newcomer    `json:"new,omitempty"`
}

type newcomer struct {
	UUID     string                    `json:"uuid,omitempty"`
	MAC      string                    `json:"mac,omitempty"`
	Firmware ingot.Firmware            `json:"firmware,omitempty"`
	Address  netip.Addr                `json:"address,omitzero"`
	Port     switchPort                `json:"port,omitzero"`
	Loaders  map[ingot.Firmware]string `json:"loaders,omitempty"`
	Facts    *ingot.Facts              `json:"facts,omitempty"`
}

func newcomerOf(n fleet.Newcomer) *newcomer {
	if reflect.ValueOf(n).IsZero() {
		return nil
	}
	return &newcomer{n.UUID, n.MAC, n.Firmware, n.Address, switchPort(n.Port), n.Loaders, n.Facts}
}

func (r *newcomer) value() (n fleet.Newcomer) {
	if r == nil {
		return n
	}
	return fleet.Newcomer{UUID: r.UUID, MAC: r.MAC, Firmware: r.Firmware, Address: r.Address,
		Port: fleet.SwitchPort(r.Port), Loaders: r.Loaders, Facts: r.Facts}
}

func claimOf(c *fleet.Claim) *claim {
	if c == nil {
		return nil
	}
	return &claim{Running: c.Running, Healthy: c.Healthy, Since: c.Since, Until: c.Until, Orders: c.Orders,
		Once: onceOf(c.Once), Trial: trialOf(c.Trial), Setback: setbackOf(c.Setback), LastHealthy: imageRef(c.LastHealthy),
		HealthyList: list(c.HealthyList, refOf), New: newcomerOf(c.New)}
}

func (r *claim) value() *fleet.Claim {
	if r == nil {
		return nil
	}
	return &fleet.Claim{Running: r.Running, Healthy: r.Healthy, Since: r.Since, Until: r.Until, Orders: r.Orders,
		Once: r.Once.value(), Trial: r.Trial.value(), Setback: r.Setback.value(), LastHealthy: fleet.ImageRef(r.LastHealthy),
		HealthyList: list(r.HealthyList, imageRef.value), New: r.New.value()}
}

// machine is the record of a machine.
type machine struct {
	ID          ingot.MachineID           `json:"id"`
	Name        string                    `json:"name,omitempty"`
	Labels      map[string]string         `json:"labels,omitempty"`
	Ask         *question                 `json:"ask,omitempty"`
	Answered    []answered                `json:"answered,omitempty"`
	State       string                    `json:"state"`
	UUID        string                    `json:"uuid,omitempty"`
	Serial      string                    `json:"serial,omitempty"`
	MACs        []string                  `json:"macs"`
	MachineKey  string                    `json:"machineKey"`
	Firmware    ingot.Firmware            `json:"firmware,omitempty"`
	Address     netip.Addr                `json:"address,omitzero"`
	Port        switchPort                `json:"port,omitzero"`
	Loaders     map[ingot.Firmware]string `json:"loaders,omitempty"`
	FirstSeen   time.Time                 `json:"firstSeen"`
	LastSeen    time.Time                 `json:"lastSeen"`
	Facts       ingot.Facts               `json:"facts"`
	Assignment  assignment                `json:"assignment"`
	LastHealthy imageRef                  `json:"lastHealthy"`
	Healthy     []imageRef                `json:"healthy,omitempty"`
	Trial       *trial                    `json:"trial,omitempty"`
	Setback     *setback                  `json:"setback,omitempty"`
	Orders      int                       `json:"orders,omitempty"`
	Once        *once                     `json:"once,omitempty"`
	Pin         *mark                     `json:"pin,omitempty"`
	Off         *mark                     `json:"off,omitempty"`
	Grants      []grant                   `json:"grants,omitempty"`
	Had         []ingot.Disk              `json:"had,omitempty"`
	Boot        ingot.BootID              `json:"boot,omitempty"`
	Claim       *claim                    `json:"claim,omitempty"`
	// as in fleet.Machine
	Authenticated bool      `json:"authenticated,omitempty"`
	Returned      time.Time `json:"returned,omitzero"`
}

func machineOf(m fleet.Machine) machine {
	r := machine{ID: m.ID, Name: m.Name, Labels: m.Labels, Answered: list(m.Answered, func(a fleet.Answered) answered {
		return answered(a)
	}),
		State: string(m.State), UUID: m.UUID, Serial: m.Serial, MACs: m.MACs, MachineKey: m.MachineKey, Firmware: m.Firmware,
		Address: m.Address, Port: switchPort(m.Port), Loaders: m.Loaders, FirstSeen: m.FirstSeen, LastSeen: m.LastSeen,
		Facts:       m.Facts,
		Assignment:  assignment{imageRef(m.Assignment.ImageRef), m.Assignment.Why, m.Assignment.Since},
		LastHealthy: imageRef(m.LastHealthy), Healthy: list(m.Healthy, refOf), Orders: m.Orders,
		Grants: list(m.Grants, grantOf), Had: m.Had, Boot: m.Boot, Claim: claimOf(m.Claim), Authenticated: m.Authenticated,
		Trial: trialOf(m.Trial), Setback: setbackOf(m.Setback), Returned: m.Returned,
		Once: onceOf(m.Once), Pin: markOf(m.Pin), Off: markOf(m.Off)}
	if q := m.Ask; q != nil {
		r.Ask = &question{With: q.With, What: q.What, About: q.About, Reported: q.Reported}
	}
	return r
}

func (r machine) value() fleet.Machine {
	m := fleet.Machine{ID: r.ID, Name: r.Name, Labels: r.Labels,
		Answered: list(r.Answered, func(a answered) fleet.Answered {
			return fleet.Answered(a)
		}),
		State: fleet.State(r.State), UUID: r.UUID, Serial: r.Serial, MACs: r.MACs, MachineKey: r.MachineKey,
		Firmware: r.Firmware,
		Address:  r.Address, Port: fleet.SwitchPort(r.Port), Loaders: r.Loaders, FirstSeen: r.FirstSeen, LastSeen: r.LastSeen,
		Facts: r.Facts,
		Assignment: fleet.Assignment{ImageRef: fleet.ImageRef(r.Assignment.imageRef), Why: r.Assignment.Why,
			Since: r.Assignment.Since},
		LastHealthy: fleet.ImageRef(r.LastHealthy), Healthy: list(r.Healthy, imageRef.value), Orders: r.Orders,
		Grants: list(r.Grants, grant.value), Had: r.Had, Boot: r.Boot, Claim: r.Claim.value(), Authenticated: r.Authenticated,
		Trial: r.Trial.value(), Setback: r.Setback.value(), Returned: r.Returned,
		Once: r.Once.value(), Pin: r.Pin.value(), Off: r.Off.value()}
	if q := r.Ask; q != nil {
		m.Ask = &fleet.Question{With: q.With, What: q.What, About: q.About, Reported: q.Reported}
	}
	return m
}

type mark struct {
	Why   string    `json:"why,omitempty"`
	By    string    `json:"by"`
	Since time.Time `json:"since"`
}

func markOf(m *fleet.Mark) *mark {
	if m == nil {
		return nil
	}
	r := mark(*m)
	return &r
}

func (r *mark) value() *fleet.Mark {
	if r == nil {
		return nil
	}
	m := fleet.Mark(*r)
	return &m
}

// once is what one boot does other than its machine's assignment says.
type once struct {
	imageRef
	Arguments []string      `json:"arguments,omitempty"`
	Shell     bool          `json:"shell,omitempty"`
	Limit     time.Duration `json:"limit,omitempty"`
	Why       string        `json:"why,omitempty"`
	Since     time.Time     `json:"since"`
	Order     int           `json:"order"`
}

func onceOf(o *fleet.Once) *once {
	if o == nil {
		return nil
	}
	return &once{imageRef(o.ImageRef), o.Arguments, o.Shell, o.Limit, o.Why, o.Since, o.Order}
}

func (r *once) value() *fleet.Once {
	if r == nil {
		return nil
	}
	return &fleet.Once{ImageRef: fleet.ImageRef(r.imageRef), Arguments: r.Arguments, Shell: r.Shell, Limit: r.Limit,
		Why: r.Why, Since: r.Since, Order: r.Order}
}

func trialOf(t fleet.Trial) *trial {
	if t.IsZero() {
		return nil
	}
	return &trial{t.Image, list(t.Failures, failureOf)}
}

func (r *trial) value() fleet.Trial {
	if r == nil {
		return fleet.Trial{}
	}
	return fleet.Trial{Image: r.Image, Failures: list(r.Failures, failure.value)}
}

func setbackOf(s *fleet.Setback) *setback {
	if s == nil {
		return nil
	}
	return &setback{imageRef(s.Gave), imageRef(s.To), s.Why, s.At, list(s.Failures, failureOf)}
}

func (r *setback) value() *fleet.Setback {
	if r == nil {
		return nil
	}
	return &fleet.Setback{Gave: fleet.ImageRef(r.Gave), To: fleet.ImageRef(r.To), Why: r.Why, At: r.At,
		Failures: list(r.Failures, failure.value)}
}

func refOf(r fleet.ImageRef) imageRef { return imageRef(r) }

func (r imageRef) value() fleet.ImageRef { return fleet.ImageRef(r) }

func failureOf(f fleet.Failure) failure {
	return failure{Boot: f.Boot, Outcome: f.Outcome, Stage: f.Stage, Reason: f.Reason, At: f.At}
}

func (r failure) value() fleet.Failure {
	return fleet.Failure{Boot: r.Boot, Outcome: r.Outcome, Stage: r.Stage, Reason: r.Reason, At: r.At}
}

func grantOf(g fleet.Grant) grant {
	return grant{g.Volume, g.Disk, g.Expires, g.Given, g.Boot, g.Over, g.Adopt, g.Lent}
}

func (r grant) value() fleet.Grant {
	return fleet.Grant{Grant: ingot.Grant{Volume: r.Volume, Disk: r.Disk, Expires: r.Expires, Adopt: r.Adopt},
		Given: r.Given, Boot: r.Boot, Over: r.Over, Lent: r.Lent}
}

// list converts the elements of a list; nil stays nil.
func list[A, B any](from []A, f func(A) B) []B {
	if from == nil {
		return nil
	}
	to := make([]B, len(from))
	for i, v := range from {
		to[i] = f(v)
	}
	return to
}
