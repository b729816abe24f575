package fleet

import (
	_ "embed"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"path"
	"strings"
	"time"

	"ingot"
)

// Rule approves and labels pending machines by their address, switch port and hardware. The
// first rule that matches applies. Rules are part of the configuration, not of the state,
// so that they can be reviewed, kept in version control and checked before they apply.
type Rule struct {
	// Network that the machine's address is in: 10.1.0.0/24.
	Subnet string `yaml:"subnet,omitempty" json:"subnet,omitempty"`
	// Pattern of the card's address, * and ? as in a shell: '52:54:00:*'.
	MAC string `yaml:"mac,omitempty" json:"mac,omitempty"`
	// Pattern of the vendor in SMBIOS: 'Dell*'.
	Vendor string `yaml:"vendor,omitempty" json:"vendor,omitempty"`
	// Pattern of the product in SMBIOS: 'PowerEdge R6?0'.
	Product string `yaml:"product,omitempty" json:"product,omitempty"`
	// Pattern of the switch port as a listed relay reports it, circuit and remote: 'Eth1/*'.
	Port string `yaml:"port,omitempty" json:"port,omitempty"`
	// The machine may boot.
	Approve bool `yaml:"approve,omitempty" json:"approve,omitempty"`
	// Labels that it gets.
	Labels map[string]string `yaml:"labels,omitempty" json:"labels,omitempty"`
	// Image that it is assigned: PROFILE:VERSION.
	Image string `yaml:"image,omitempty" json:"image,omitempty"`
}

// RuleSource is the source of Rule: its comments describe the fields in the schema
// of the configuration.
//
//go:embed rules.go
var RuleSource string

// ErrRule means that a rule is invalid.
var ErrRule = errors.New("not a rule")

// Check returns an error that wraps ErrRule if a rule is invalid.
func (r Rule) Check() error {
	if r.Subnet != "" {
		if _, err := netip.ParsePrefix(r.Subnet); err != nil {
			return fmt.Errorf("%w: subnet %q is not a network such as 10.1.0.0/24", ErrRule, r.Subnet)
		}
	}
	for what, p := range map[string]string{"mac": r.MAC, "vendor": r.Vendor, "product": r.Product, "port": r.Port} {
		if _, err := path.Match(p, ""); err != nil {
			return fmt.Errorf("%w: %s: the pattern %q is broken", ErrRule, what, p)
		}
	}
	if len(r.Labels) > MaxLabels {
		return fmt.Errorf("%w: it has %d labels; a machine has at most %d", ErrRule, len(r.Labels), MaxLabels)
	}
	for k, v := range r.Labels {
		if err := CheckLabel(k, v); err != nil {
			return fmt.Errorf("%w: %w", ErrRule, err)
		}
	}
	switch {
	case r.Subnet == "" && r.MAC == "" && r.Vendor == "" && r.Product == "" && r.Port == "":
		return fmt.Errorf("%w: it matches every machine; to approve all of them, there is approveAll", ErrRule)
	case !r.Approve && len(r.Labels) == 0 && r.Image == "":
		return fmt.Errorf("%w: it does nothing; write approve: true, labels or image", ErrRule)
	case r.Image != "":
		if _, err := ingot.ParseImageName(r.Image); err != nil {
			return fmt.Errorf("%w: %w", ErrRule, err)
		}
	}
	return nil
}

// Matches reports whether a rule matches a machine. A value that the machine did not report
// matches no pattern.
func (r Rule) Matches(m Machine) bool {
	if r.Subnet != "" {
		p, err := netip.ParsePrefix(r.Subnet)
		if err != nil || !m.Address.IsValid() || !p.Contains(m.Address) {
			return false
		}
	}
	glob := func(pattern string, texts ...string) bool {
		if pattern == "" {
			return true
		}
		for _, t := range texts {
			// A slash is a character like others, in "Eth1/7".
			ok, err := path.Match(strings.ReplaceAll(pattern, "/", "\x01"), strings.ReplaceAll(t, "/", "\x01"))
			if err == nil && ok && t != "" {
				return true
			}
		}
		return false
	}
	return glob(strings.ToLower(r.MAC), m.MACs...) && glob(r.Vendor, m.Facts.Vendor) && glob(r.Product, m.Facts.Product) &&
		glob(r.Port, m.Port.Circuit, m.Port.Remote, strings.TrimSpace(m.Port.Circuit+" "+m.Port.Remote))
}

// FirstRule returns the first rule that matches a machine. Operators' decisions take
// precedence: rules apply only to pending machines without an open question.
func FirstRule(rules []Rule, m Machine) (Rule, bool) {
	if m.State != Pending || m.Ask != nil {
		return Rule{}, false
	}
	for _, r := range rules {
		if r.Matches(m) {
			return r, true
		}
	}
	return Rule{}, false
}

// String names a rule by what it matches.
func (r Rule) String() string {
	var list []string
	for _, p := range []struct{ what, is string }{{"subnet", r.Subnet}, {"mac", r.MAC}, {"vendor", r.Vendor},
		{"product", r.Product}, {"port", r.Port}} {
		if p.is != "" {
			list = append(list, p.what+" "+p.is)
		}
	}
	return "the rule for " + strings.Join(list, ", ")
}

// Change returns the Change of a rule that was applied; is is false if it changed nothing.
func (r Rule) Change(before, after Machine, now time.Time) (c Change, is bool) {
	c = Change{At: now, Code: CodeRuleApplied, Machine: after.ID, To: Values{}}
	if before.State != after.State {
		c.To["state"] = string(after.State)
	}
	if !maps.Equal(before.Labels, after.Labels) {
		c.To["labelled"] = true
	}
	if before.Assignment != after.Assignment {
		c.Image = after.Assignment.ImageRef
	}
	is = len(c.To) > 0 || c.Image.Image != ""
	c.To["rule"] = r.String()
	return c, is
}

// Apply returns the machine after a rule was applied. as is the rule's image, resolved.
func (r Rule) Apply(m Machine, as Assignment) Machine {
	if r.Approve {
		m.State = Approved
	}
	if len(r.Labels) > 0 {
		labels := maps.Clone(r.Labels)
		maps.Copy(labels, m.Labels) // an operator's labels stay
		if len(labels) <= MaxLabels || len(labels) == len(m.Labels) {
			m.Labels = labels
		}
	}
	if as.Image != "" && m.Assignment.Image == "" {
		m = Assign(m, as)
	}
	return m
}
