// Package config is what operators write about a server: one YAML file,
// /etc/ingot/ingot.yaml, and drop-ins beside it, read in the order of their
// names. A later file replaces single values and lists of values; interfaces,
// networks, groups, machines and rules it adds to.
//
// All that is wrong is said at once, with its place. Nothing is looked up:
// whether an interface exists is found out by the server.
package config

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/invopop/jsonschema"

	"ingot"
	"ingot/bootserver/dhcp4"
	"ingot/bootserver/dhcp6"
	"ingot/bootserver/fleet"
	"ingot/bootserver/httpboot"
	"ingot/bootserver/lease"
	"ingot/bootserver/network"
	"ingot/bootserver/tftp"
	"ingot/internal/yamlfile"
)

// Default is where the configuration is looked for. Drop-ins are in a folder
// named like the file, with .d for .yaml.
const Default = "/etc/ingot/ingot.yaml"

// Config is one server. Zero values are the defaults.
type Config struct {
	Schema string       `yaml:"$schema,omitempty" json:"-" jsonschema_description:"Location of this schema; for editors, ignored by ingot."`
	Store  string       `yaml:"store,omitempty" json:"store,omitempty" jsonschema_description:"Folder of images, keys and state. Default: /var/lib/ingot."`
	Socket string       `yaml:"socket,omitempty" json:"socket,omitempty" jsonschema_description:"Unix socket of the administrator. Default: ingot.sock in the store."`
	Mirror string       `yaml:"mirror,omitempty" json:"mirror,omitempty" jsonschema_description:"Debian mirror for the loaders. Default: this host's own apt sources."`
	DHCP   dhcp4.Config `yaml:"dhcp,omitempty" json:"dhcp"`
	DHCP6  dhcp6.Config `yaml:"dhcp6,omitempty" json:"dhcp6" jsonschema_description:"DHCPv6. Without it nothing of IPv6 is served."`
	TFTP   TFTP         `yaml:"tftp,omitempty" json:"tftp"`
	HTTP   HTTP         `yaml:"http,omitempty" json:"http"`
	Boots  Boots        `yaml:"boots,omitempty" json:"boots"`
	API    API          `yaml:"api,omitempty" json:"api"`
}

// TFTP bounds the first stage. See tftp.Limits.
type TFTP struct {
	Transfers  int  `yaml:"transfers,omitempty" json:"transfers,omitempty" jsonschema_description:"Transfers under way at once. Default: 4096."`
	PerClient  int  `yaml:"perClient,omitempty" json:"perClient,omitempty" jsonschema_description:"Transfers of one address at once. Default: 16."`
	SinglePort bool `yaml:"singlePort,omitempty" json:"singlePort,omitempty" jsonschema_description:"Send files from port 69 instead of a port for each transfer. For servers behind address translation, in containers and behind firewalls that do not follow TFTP."`
}

// HTTP bounds what machines fetch. See httpboot.Limits.
type HTTP struct {
	Port        uint16         `yaml:"port,omitempty" json:"port,omitempty" jsonschema_description:"TCP port. Default: 80."`
	Rate        yamlfile.Bytes `yaml:"rate,omitempty" json:"rate,omitempty" jsonschema_description:"Bytes per second of all machines together, shared equally. Default: no limit."`
	Transfers   int            `yaml:"transfers,omitempty" json:"transfers,omitempty" jsonschema_description:"Roots under way at once; more are asked to come back. Default: 256."`
	PerBoot     int            `yaml:"perBoot,omitempty" json:"perBoot,omitempty" jsonschema_description:"Transfers of one boot at once. Default: 8."`
	Connections int            `yaml:"connections,omitempty" json:"connections,omitempty" jsonschema_description:"Of all clients. Default: 8192."`
	PerClient   int            `yaml:"perClient,omitempty" json:"perClient,omitempty" jsonschema_description:"Connections of one address. Default: 64."`
}

// Boots says how machines boot.
type Boots struct {
	Ticket     yamlfile.Duration `yaml:"ticket,omitempty" json:"ticket,omitempty" jsonschema_description:"How long a ticket is valid. Default: 2m."`
	Deadline   yamlfile.Duration `yaml:"deadline,omitempty" json:"deadline,omitempty" jsonschema_description:"Of images that name none: from the script to the report. Default: 10m."`
	Attempts   int               `yaml:"attempts,omitempty" json:"attempts,omitempty" jsonschema_description:"Failed boots in a row after which an image is given up on a machine. Default: 2."`
	After      fleet.After       `yaml:"afterFailures,omitempty" json:"afterFailures,omitempty" jsonschema_description:"What a machine does then: fallback to the image last healthy on it, and hold when there is none (default); hold until a person decides; retry for ever."`
	Rules      []fleet.Rule      `yaml:"rules,omitempty" json:"rules,omitempty" jsonschema_description:"Which new machines are approved and labelled by themselves; the first rule that matches decides."`
	ApproveAll bool              `yaml:"approveAll,omitempty" json:"approveAll,omitempty" jsonschema_description:"Approve every new machine. For labs, on networks that no stranger can reach."`
	Image      string            `yaml:"image,omitempty" json:"image,omitempty" jsonschema_description:"With approveAll: the image that new machines are assigned."`
}

// API says where the server is administered from elsewhere. The Unix socket is
// always there.
type API struct {
	Listen  []string `yaml:"listen,omitempty" json:"listen,omitempty" jsonschema_description:"Where HTTPS is served to who has a token or client certificate: 10.0.0.1:7443, or :7443 for every address. Default: nowhere."`
	Names   []string `yaml:"names,omitempty" json:"names,omitempty" jsonschema_description:"Names and addresses in the server's certificate, besides the host's own and those of listen; for clients other than ingot."`
	Metrics string   `yaml:"metrics,omitempty" json:"metrics,omitempty" jsonschema_description:"Where /metrics, /healthz and /readyz, and nothing else, are served over plain HTTP to whoever asks: 127.0.0.1:9469. Default: only by HTTPS and the socket, to scope read."`
}

// Limits are the limits of the HTTP server.
func (h HTTP) Limits() httpboot.Limits {
	return httpboot.Limits{Rate: int64(h.Rate), Transfers: h.Transfers, PerBoot: h.PerBoot, Connections: h.Connections, PerClient: h.PerClient}
}

// Limits are the limits of the TFTP server.
func (t TFTP) Limits() tftp.Limits {
	return tftp.Limits{Transfers: t.Transfers, PerClient: t.PerClient}
}

// ErrAbsent: there is no configuration file.
var ErrAbsent = errors.New("there is no configuration")

// Load reads the file and its drop-ins. The error is yamlfile.Faults when
// something is wrong with what they say, ErrAbsent when there is none of them.
func Load(file string) (*Config, error) {
	files, err := Files(file)
	if err != nil {
		return nil, err
	}
	var texts []text
	for _, f := range files {
		content, err := os.ReadFile(f)
		if err != nil {
			return nil, fmt.Errorf("reading the configuration: %w", err)
		}
		texts = append(texts, text{f, content})
	}
	return parse(texts)
}

// text is one file of a configuration.
type text struct {
	name    string
	content []byte
}

// parse reads files one over the other.
func parse(files []text) (*Config, error) {
	c, places, faults := &Config{}, map[string]yamlfile.Place{}, yamlfile.Faults{}
	for _, f := range files {
		d := yamlfile.Decoder{File: f.name, What: "the configuration", Append: true, Places: places}
		d.Decode(f.content, c)
		faults = append(faults, d.Faults...)
	}
	if len(faults) == 0 { // what could not be read cannot be judged
		c.check(&faults, places)
	}
	if err := faults.Err(); err != nil {
		return nil, err
	}
	return c, nil
}

// Files lists the file, when it is there, and its drop-ins in the order in
// which they are read.
func Files(file string) ([]string, error) {
	dropIns, err := filepath.Glob(filepath.Join(strings.TrimSuffix(file, ".yaml")+".d", "*.yaml"))
	if err != nil {
		return nil, fmt.Errorf("looking for the configuration: %w", err)
	}
	slices.Sort(dropIns)
	if _, err := os.Stat(file); err == nil {
		return append([]string{file}, dropIns...), nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("looking for the configuration: %w", err)
	}
	if len(dropIns) == 0 {
		return nil, fmt.Errorf("%w at %s", ErrAbsent, file)
	}
	return dropIns, nil
}

// Check returns all that is wrong with a configuration that did not come from
// a file alone.
func (c *Config) Check() error {
	var faults yamlfile.Faults
	c.check(&faults, nil)
	return faults.Err()
}

func (c *Config) check(faults *yamlfile.Faults, places map[string]yamlfile.Place) {
	at := func(path string) yamlfile.Place {
		if p, ok := places[path]; ok {
			return p
		}
		return yamlfile.Place{File: path}
	}
	for path, value := range map[string]string{"store": c.Store, "socket": c.Socket} {
		if value != "" && !filepath.IsAbs(value) {
			faults.Add(at(path), "write it from the root: /"+value, "%s: %q is not an absolute path", path, value)
		}
	}
	if len(c.Socket) > 107 {
		faults.Add(at("socket"), "choose a shorter one", "socket: a path of Unix sockets has at most 107 bytes")
	}
	if c.Boots.Image != "" && !c.Boots.ApproveAll {
		faults.Add(at("boots.image"), "write approveAll: true beside it, or assign images to machines", "image: it is for machines that are approved by themselves")
	}
	if c.Boots.Image != "" {
		if _, err := ingot.ParseImageName(c.Boots.Image); err != nil {
			faults.Add(at("boots.image"), "write PROFILE:VERSION", "image: %v", err)
		}
	}
	if t := time.Duration(c.Boots.Ticket); t != 0 && (t < 5*time.Second || t > time.Hour) {
		faults.Add(at("boots.ticket"), "write a time between 5s and 1h", "ticket: %s", t)
	}
	for i, r := range c.Boots.Rules {
		if err := r.Check(); err != nil {
			faults.Add(at(fmt.Sprintf("boots.rules[%d]", i)), "see: ingot config --help", "rules[%d]: %v", i, err)
		}
	}
	if n := c.Boots.Attempts; n < 0 || n > 100 {
		faults.Add(at("boots.attempts"), "write a number between 1 and 100", "attempts: %d", n)
	}
	if a := c.Boots.After; a != "" && a != fleet.AfterFallback && a != fleet.AfterHold && a != fleet.AfterRetry {
		faults.Add(at("boots.afterFailures"), "write fallback, hold or retry", "afterFailures: %q is not known", a)
	}
	if c.HTTP.Rate != 0 && c.HTTP.Rate < 64<<10 {
		faults.Add(at("http.rate"), "write at least 64KiB, or nothing", "rate: %d bytes per second boot no machine", c.HTTP.Rate)
	}
	c.API.check(faults, at)
	checkDHCP("dhcp", network.ErrConfig, c.DHCP.Check(), faults, places)
	checkDHCP("dhcp6", network.ErrConfig, c.DHCP6.Check(), faults, places)
}

func (a *API) check(faults *yamlfile.Faults, at func(string) yamlfile.Place) {
	wants := func(path, address string) {
		host, port, err := net.SplitHostPort(address)
		if err == nil && host != "" {
			_, err = netip.ParseAddr(host)
		}
		if n, bad := strconv.ParseUint(port, 10, 16); err != nil || bad != nil || n == 0 {
			faults.Add(at(path), "write ADDRESS:PORT, or :PORT for every address", "%s: %q is not an address and a port", path, address)
		}
	}
	for i, l := range a.Listen {
		wants(fmt.Sprintf("api.listen[%d]", i), l)
		if slices.Contains(a.Listen[:i], l) {
			faults.Add(at(fmt.Sprintf("api.listen[%d]", i)), "remove one", "api.listen: %q is there twice", l)
		}
	}
	if a.Metrics != "" {
		wants("api.metrics", a.Metrics)
	}
	for i, n := range a.Names {
		if n == "" || strings.ContainsAny(n, " \t\n/:") && net.ParseIP(n) == nil {
			faults.Add(at(fmt.Sprintf("api.names[%d]", i)), "write a host name or an address, without a port", "api.names: %q cannot be in a certificate", n)
		}
	}
}

// item is the place that a fault of package dhcp4 begins with: networks[0] "x": …
var item = regexp.MustCompile(`^[a-z]+\[\d+\]`)

// checkDHCP gives the faults of packages dhcp4 and dhcp6 the places of what they
// are about, in the section of that name.
func checkDHCP(section string, sentinel, err error, faults *yamlfile.Faults, places map[string]yamlfile.Place) {
	for _, e := range leaves(err, sentinel) {
		path := section
		if of := item.FindString(e.Error()); of != "" {
			path += "." + of
		}
		place, ok := places[path]
		if !ok {
			place = yamlfile.Place{File: path}
		}
		what, fix, _ := strings.Cut(e.Error(), "; ")
		faults.Add(place, fix, "%s", what)
	}
}

// leaves are the errors that an error joins, without the sentinel.
func leaves(err, sentinel error) (list []error) {
	if err == nil {
		return nil
	}
	joined, ok := err.(interface{ Unwrap() []error }) // the parts are wanted, not a match
	if !ok || !errors.Is(err, sentinel) {
		if ok {
			return joined.Unwrap()
		}
		return []error{err}
	}
	for _, e := range joined.Unwrap() {
		if !errors.Is(e, sentinel) {
			list = append(list, leaves(e, sentinel)...)
		}
	}
	return list
}

// YAML writes a configuration as a file that Load reads.
func (c *Config) YAML() ([]byte, error) {
	b, err := yamlfile.Encode(c)
	if err != nil {
		return nil, fmt.Errorf("writing the configuration: %w", err)
	}
	return b, nil
}

// Schema returns the JSON schema (draft 2020-12) of a configuration file.
func Schema() ([]byte, error) {
	return yamlfile.Schema(&Config{}, "ingot server", func(t reflect.Type) *jsonschema.Schema {
		switch t {
		case reflect.TypeFor[lease.Range]():
			return &jsonschema.Schema{Type: "string", Pattern: `^[0-9A-Fa-f.:]+ *- *[0-9A-Fa-f.:]+$`}
		case reflect.TypeFor[dhcp6.Mode]():
			return &jsonschema.Schema{Type: "string", Enum: []any{dhcp6.Full, dhcp6.Boot, dhcp6.Observe}}
		case reflect.TypeFor[dhcp4.Mode]():
			return &jsonschema.Schema{Type: "string", Enum: []any{dhcp4.Full, dhcp4.Proxy, dhcp4.Observe}}
		case reflect.TypeFor[fleet.After]():
			return &jsonschema.Schema{Type: "string", Enum: []any{fleet.AfterFallback, fleet.AfterHold, fleet.AfterRetry}}
		}
		return nil
	})
}
