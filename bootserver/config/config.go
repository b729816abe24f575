// Package config reads the configuration of a server: one YAML file,
// /etc/ingot/ingot.yaml, and drop-ins beside it, in the order of their names. A later file
// replaces single values and lists of values, and adds to lists of interfaces, networks,
// groups, machines and rules.
//
// All faults are reported at once, with their places.
//
// Left out: everything that depends on the host, such as whether an interface exists,
// which the server checks when it starts.
package config

import (
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/netip"
	"net/url"
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
	"ingot/bootserver/access"
	"ingot/bootserver/dhcp4"
	"ingot/bootserver/dhcp6"
	"ingot/bootserver/fleet"
	"ingot/bootserver/httpboot"
	"ingot/bootserver/lease"
	"ingot/bootserver/network"
	"ingot/bootserver/tftp"
	"ingot/internal/yamlfile"
)

// Default is the default path of the configuration. Drop-ins are in a folder with the
// file's name, with .d for .yaml.
const Default = "/etc/ingot/ingot.yaml"

// Config is the configuration of one server. Zero values are the defaults. The comments of
// fields, here and below, are also the descriptions in the JSON schema.
type Config struct {
	// Location of this schema; for editors, ignored by ingot.
	Schema string `yaml:"$schema,omitempty" json:"-"`
	// Folder of images, keys and state. Default: /var/lib/ingot.
	Store string `yaml:"store,omitempty" json:"store,omitempty"`
	// Unix socket for administration. Default: ingot.sock in the store.
	Socket string `yaml:"socket,omitempty" json:"socket,omitempty"`
	// Group whose members may use the socket as well. They administer the server without a password.
	SocketGroup string `yaml:"socketGroup,omitempty" json:"socketGroup,omitempty"`
	// Debian mirror for the loaders. Default: this host's own apt sources.
	Mirror string       `yaml:"mirror,omitempty" json:"mirror,omitempty"`
	DHCP   dhcp4.Config `yaml:"dhcp,omitempty" json:"dhcp"`
	// DHCPv6. Without it nothing is served over IPv6.
	DHCP6 dhcp6.Config `yaml:"dhcp6,omitempty" json:"dhcp6"`
	TFTP  TFTP         `yaml:"tftp,omitempty" json:"tftp"`
	HTTP  HTTP         `yaml:"http,omitempty" json:"http"`
	Boots Boots        `yaml:"boots,omitempty" json:"boots"`
	API   API          `yaml:"api,omitempty" json:"api"`
}

// TFTP bounds the first stage. See tftp.Limits.
type TFTP struct {
	// Concurrent transfers. Default: 4096.
	Transfers int `yaml:"transfers,omitempty" json:"transfers,omitempty"`
	// Concurrent transfers of one address. Default: 16.
	PerClient int `yaml:"perClient,omitempty" json:"perClient,omitempty"`
	// Send files from port 69 instead of a port for each transfer. For servers behind address
	// translation, in containers and behind firewalls that do not follow TFTP.
	SinglePort bool `yaml:"singlePort,omitempty" json:"singlePort,omitempty"`
}

// HTTP bounds what machines fetch. See httpboot.Limits.
type HTTP struct {
	// TCP port. Default: 80.
	Port uint16 `yaml:"port,omitempty" json:"port,omitempty"`
	// Bytes per second of all machines together, shared equally. Default: no limit.
	Rate yamlfile.Bytes `yaml:"rate,omitempty" json:"rate,omitempty"`
	// Concurrent transfers of roots; further ones are told to retry. Default: 256.
	Transfers int `yaml:"transfers,omitempty" json:"transfers,omitempty"`
	// Concurrent transfers of one boot. Default: 8.
	PerBoot int `yaml:"perBoot,omitempty" json:"perBoot,omitempty"`
	// Connections of all clients. Default: 8192.
	Connections int `yaml:"connections,omitempty" json:"connections,omitempty"`
	// Connections of one address. Default: 64.
	PerClient int `yaml:"perClient,omitempty" json:"perClient,omitempty"`
}

// Boots says how machines boot.
type Boots struct {
	// How long a ticket is valid. Default: 2m.
	Ticket yamlfile.Duration `yaml:"ticket,omitempty" json:"ticket,omitempty"`
	// Time from the script to the report, of images that name none. Default: 10m.
	Deadline yamlfile.Duration `yaml:"deadline,omitempty" json:"deadline,omitempty"`
	// Failed boots in a row after which a machine no longer boots an image. Default: 2.
	Attempts int `yaml:"attempts,omitempty" json:"attempts,omitempty"`
	// What a machine does then: fallback to the image last healthy on it, and hold when there is none
	// (default); hold until an operator decides; retry forever.
	After fleet.After `yaml:"afterFailures,omitempty" json:"afterFailures,omitempty"`
	// required: serve only images that authenticate their reports. Default: serve older images as well,
	// and show that their reports are not authenticated.
	Authenticated Authenticated `yaml:"authenticated,omitempty" json:"authenticated,omitempty"`
	// New machines to approve and label automatically; the first rule that matches applies.
	Rules []fleet.Rule `yaml:"rules,omitempty" json:"rules,omitempty"`
	// Approve every new machine. For labs, on networks that unknown machines cannot reach.
	ApproveAll bool `yaml:"approveAll,omitempty" json:"approveAll,omitempty"`
	// With approveAll: the image to assign to new machines.
	Image string `yaml:"image,omitempty" json:"image,omitempty"`
}

// Authenticated says what images a server requires; empty is the default.
type Authenticated string

// AuthenticatedRequired serves only images that authenticate their reports.
const AuthenticatedRequired Authenticated = "required"

// API says where the API is served besides the Unix socket.
type API struct {
	// Where HTTPS is served to clients with a token or certificate: 10.0.0.1:7443, or :7443 for every
	// address. Default: nowhere.
	Listen []string `yaml:"listen,omitempty" json:"listen,omitempty"`
	// Names and addresses in the server's certificate, besides the host's own and those of listen; for
	// clients other than ingot.
	Names []string `yaml:"names,omitempty" json:"names,omitempty"`
	// File with a certificate for browsers, PEM, followed by those of its issuers (certbot: fullchain.pem).
	// Clients that ask for one of its names get it; others, and ingot itself, get that of the server's
	// own CA. A renewed file is read without a reload.
	Certificate string `yaml:"certificate,omitempty" json:"certificate,omitempty"`
	// File with the private key of certificate, PEM, without a passphrase.
	Key string `yaml:"key,omitempty" json:"key,omitempty"`
	// Provider by which operators log in to the dashboard (OpenID Connect). Default: none; tokens and client
	// certificates work in any case.
	OIDC *OIDC `yaml:"oidc,omitempty" json:"oidc,omitempty"`
	// Where /metrics, /healthz and /readyz, and nothing else, are served over plain HTTP without
	// authentication: 127.0.0.1:9469. Default: only by HTTPS and the socket, to scope read.
	Metrics string `yaml:"metrics,omitempty" json:"metrics,omitempty"`
}

// OIDC says which provider logs operators in, and what its groups may do.
type OIDC struct {
	// Address of the provider as it calls itself: https://login.example.org/realms/ops.
	Issuer string `yaml:"issuer" json:"issuer"`
	// Name of this server as a client of the provider. Register https://NAME:PORT/login/oidc/callback there as
	// redirect address, with a name of api.names and the port of api.listen.
	ClientID string `yaml:"clientID" json:"clientID"`
	// File with the client's secret. Default: none, for a public client.
	ClientSecretFile string `yaml:"clientSecretFile,omitempty" json:"clientSecretFile,omitempty"`
	// Scopes to ask for, besides openid. Default: profile, email.
	Scopes []string `yaml:"scopes,omitempty" json:"scopes,omitempty"`
	// Claim with the groups of an operator: a text or a list of texts. A dot leads into an object, as in
	// realm_access.roles. Default: groups.
	GroupsClaim string `yaml:"groupsClaim,omitempty" json:"groupsClaim,omitempty"`
	// What each group may do: read, operate or admin. Of several groups, the one that may do most counts.
	// Operators without any of them are refused.
	Groups map[string]string `yaml:"groups" json:"groups"`
}

// Origins are the addresses at which browsers reach the API: each name of it with each port.
func (a *API) Origins() (list []string) {
	for _, name := range a.Names {
		for _, l := range a.Listen {
			_, port, err := net.SplitHostPort(l)
			if err != nil {
				continue
			}
			host := net.JoinHostPort(strings.ToLower(name), port)
			if port == "443" {
				host = strings.TrimSuffix(host, ":443")
			}
			if at := "https://" + host; !slices.Contains(list, at) {
				list = append(list, at)
			}
		}
	}
	return list
}

func (o *OIDC) check(a *API, faults *yamlfile.Faults, at func(string) yamlfile.Place) {
	here := at("api.oidc")
	u, err := url.Parse(o.Issuer)
	switch {
	case err != nil || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.Scheme != "https" && u.Scheme != "http":
		faults.Add(at("api.oidc.issuer"), "write https://HOST/PATH, as the provider calls itself", "api.oidc.issuer: %q is "+
			"not the address of a provider", o.Issuer)
	case u.Scheme == "http" && !loopback(u.Hostname()):
		faults.Add(at("api.oidc.issuer"), "write https://"+u.Host+u.Path, "api.oidc.issuer: whoever is on the way to %s "+
			"could log in as anybody", u.Host)
	}
	if o.ClientID == "" {
		faults.Add(here, "write the name of this server as a client of the provider", "api.oidc.clientID: it is missing")
	}
	if f := o.ClientSecretFile; f != "" && !filepath.IsAbs(f) {
		faults.Add(at("api.oidc.clientSecretFile"), "write it from the root: /"+f,
			"api.oidc.clientSecretFile: %q is not an absolute path", f)
	}
	for i, s := range o.Scopes {
		if s == "" || strings.ContainsAny(s, " \"\\") {
			faults.Add(at(fmt.Sprintf("api.oidc.scopes[%d]", i)), "write one scope for each entry",
				"api.oidc.scopes: %q is not "+
					"a scope", s)
		}
	}
	if len(o.Groups) == 0 {
		faults.Add(here, "write groups: {NAME: read}", "api.oidc.groups: without groups, nobody can log in")
	}
	for _, g := range slices.Sorted(maps.Keys(o.Groups)) {
		if _, err := access.ParseScope(o.Groups[g]); err != nil {
			faults.Add(at("api.oidc.groups."+g), "write read, operate or admin", "api.oidc.groups: %s has the scope %q", g,
				o.Groups[g])
		}
	}
	if len(a.Origins()) == 0 {
		faults.Add(here, "write api.names: [boot.example.org] and api.listen: [\":7443\"]",
			"api.oidc: the provider sends browsers back to a name of api.names at a port of api.listen, and there is none")
	}
}

// loopback reports whether a host is this one.
func loopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// Limits returns the limits of the HTTP server.
func (h HTTP) Limits() httpboot.Limits {
	return httpboot.Limits{Rate: int64(h.Rate), Transfers: h.Transfers, PerBoot: h.PerBoot, Connections: h.Connections,
		PerClient: h.PerClient}
}

// Limits returns the limits of the TFTP server.
func (t TFTP) Limits() tftp.Limits {
	return tftp.Limits{Transfers: t.Transfers, PerClient: t.PerClient}
}

// ErrAbsent means that there is no configuration file.
var ErrAbsent = errors.New("there is no configuration")

// Load reads the file and its drop-ins. The error is yamlfile.Faults if their content is
// invalid, and wraps ErrAbsent if there is none of them.
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

// parse reads files, each over those before it.
func parse(files []text) (*Config, error) {
	c, places, faults := &Config{}, map[string]yamlfile.Place{}, yamlfile.Faults{}
	for _, f := range files {
		d := yamlfile.Decoder{File: f.name, What: "the configuration", Append: true, Places: places}
		d.Decode(f.content, c)
		faults = append(faults, d.Faults...)
	}
	if len(faults) == 0 { // else the faults would be followed by others
		c.check(&faults, places)
	}
	if err := faults.Err(); err != nil {
		return nil, err
	}
	return c, nil
}

// Files returns the paths of the file, if it exists, and its drop-ins, in the order in
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

// Check returns all faults of a configuration that does not come from files only.
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
		faults.Add(at("socket"), "choose a shorter one", "socket: the path of a Unix socket has at most 107 bytes")
	}
	if c.Boots.Image != "" && !c.Boots.ApproveAll {
		faults.Add(at("boots.image"), "write approveAll: true beside it, or assign images to machines",
			"image: it only applies to machines that are approved automatically")
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
		faults.Add(at("boots.afterFailures"), "write fallback, hold or retry", "afterFailures: unknown value %q", a)
	}
	if a := c.Boots.Authenticated; a != "" && a != AuthenticatedRequired {
		faults.Add(at("boots.authenticated"), "write required, or remove it", "authenticated: unknown value %q", a)
	}
	if c.HTTP.Rate != 0 && c.HTTP.Rate < 64<<10 {
		faults.Add(at("http.rate"), "write at least 64KiB, or nothing",
			"rate: %d bytes per second are too few to boot a machine", c.HTTP.Rate)
	}
	c.API.check(faults, at)
	addDHCP("dhcp", c.DHCP.Check(), faults, places)
	addDHCP("dhcp6", c.DHCP6.Check(), faults, places)
}

func (a *API) check(faults *yamlfile.Faults, at func(string) yamlfile.Place) {
	wants := func(path, address string) {
		host, port, err := net.SplitHostPort(address)
		if err == nil && host != "" {
			_, err = netip.ParseAddr(host)
		}
		if n, bad := strconv.ParseUint(port, 10, 16); err != nil || bad != nil || n == 0 {
			faults.Add(at(path), "write ADDRESS:PORT, or :PORT for every address",
				"%s: %q is not an address and a port",
				path, address)
		}
	}
	for i, l := range a.Listen {
		wants(fmt.Sprintf("api.listen[%d]", i), l)
		if slices.Contains(a.Listen[:i], l) {
			faults.Add(at(fmt.Sprintf("api.listen[%d]", i)), "remove one", "api.listen: %q is listed twice", l)
		}
	}
	if a.Metrics != "" {
		wants("api.metrics", a.Metrics)
	}
	for path, file := range map[string]string{"certificate": a.Certificate, "key": a.Key} {
		if file != "" && !filepath.IsAbs(file) {
			faults.Add(at("api."+path), "write it from the root: /"+file, "api.%s: %q is not an absolute path", path, file)
		}
	}
	if (a.Certificate == "") != (a.Key == "") {
		path, other := "certificate", "key"
		if a.Key != "" {
			path, other = other, path
		}
		faults.Add(at("api."+path), "write api."+other+" beside it", "api.%s: a certificate and its key belong together",
			path)
	}
	if a.OIDC != nil {
		a.OIDC.check(a, faults, at)
	}
	for i, n := range a.Names {
		if n == "" || strings.ContainsAny(n, " \t\n/:") && net.ParseIP(n) == nil {
			faults.Add(at(fmt.Sprintf("api.names[%d]", i)), "write a host name or an address, without a port",
				"api.names: %q cannot be in a certificate", n)
		}
	}
}

// item is the place with which a fault of package network begins: networks[0] "x": …
var item = regexp.MustCompile(`^[a-z]+\[\d+\]`)

// addDHCP adds the faults of a section for DHCP, with their places in the files.
func addDHCP(section string, err error, faults *yamlfile.Faults, places map[string]yamlfile.Place) {
	for _, e := range leaves(err, network.ErrConfig) {
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

// leaves returns the errors that an error joins, without the sentinel.
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

//go:embed config.go
var source string

// Schema returns the JSON schema (draft 2020-12) of a configuration file.
func Schema() ([]byte, error) {
	return yamlfile.Schema(&Config{}, "ingot server", func(t reflect.Type) *jsonschema.Schema {
		switch t {
		case reflect.TypeFor[lease.Range]():
			return &jsonschema.Schema{Type: "string", Pattern: `^[0-9A-Fa-f.:]+ *- *[0-9A-Fa-f.:]+$`}
		case reflect.TypeFor[dhcp4.ProbeTime]():
			return &jsonschema.Schema{Type: "string", Pattern: `^(off|([0-9.]+(h|m|s|ms))+)$`}
		case reflect.TypeFor[network.Relay]():
			return &jsonschema.Schema{Type: "string", Pattern: `^[0-9A-Fa-f.:]+(/[0-9]+)?$`}
		case reflect.TypeFor[dhcp6.Mode]():
			return &jsonschema.Schema{Type: "string", Enum: []any{dhcp6.Full, dhcp6.Boot, dhcp6.Observe}}
		case reflect.TypeFor[dhcp4.Mode]():
			return &jsonschema.Schema{Type: "string", Enum: []any{dhcp4.Full, dhcp4.Proxy, dhcp4.Observe}}
		case reflect.TypeFor[Authenticated]():
			return &jsonschema.Schema{Type: "string", Enum: []any{AuthenticatedRequired}}
		case reflect.TypeFor[fleet.After]():
			return &jsonschema.Schema{Type: "string",
				Enum: []any{fleet.AfterFallback, fleet.AfterHold, fleet.AfterRetry}}
		}
		return nil
	}, source, fleet.RuleSource)
}
