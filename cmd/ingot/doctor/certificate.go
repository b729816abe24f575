package doctor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"ingot/bootserver"
	"ingot/bootserver/access"
	"ingot/bootserver/config"
	"ingot/bootserver/web/login"
)

// examineCertificate checks the certificate for browsers, and whether the running server presents it.
func examineCertificate(ctx context.Context, c config.API, running bool, now time.Time) (list []Finding) {
	const check = "API certificate"
	if c.Certificate == "" {
		return nil
	}
	pair, doubts := access.ExaminePair(c.Certificate, c.Key, c.Names, now)
	for _, d := range doubts {
		state := Warning
		if d.Broken {
			state = Error
		}
		list = append(list, found(check, state, d.Fix, "%s", d.Text))
	}
	if pair == nil || !running || len(c.Listen) == 0 {
		return list
	}
	leaf := pair.Leaf
	presented, name, err := presentedAt(ctx, c.Listen[0], leaf.DNSNames)
	switch {
	case err != nil:
		list = append(list, found(check, Skipped, "ss -ltnp", "asking the server at %s: %v", c.Listen[0], err))
	case presented == nil:
	case !leaf.Equal(presented):
		list = append(list, found(check, Error,
			"ingot config reload; the server's log has the reason; its user must be able "+
				"to read both files", "the running server presents another certificate to clients that ask for %s", name))
	case len(doubts) == 0:
		list = append(list, found(check, OK, "", "presented for %s, until %s", strings.Join(leaf.DNSNames, ", "),
			leaf.NotAfter.Format(time.DateOnly)))
	}
	return list
}

// presentedAt returns the certificate that a server at an address of the configuration presents to
// clients that ask for the first of some names; none if there is no name to ask for.
func presentedAt(ctx context.Context, listen string, names []string) (leaf *x509.Certificate, name string, err error) {
	if len(names) == 0 {
		return nil, "", nil
	}
	name = strings.Replace(names[0], "*", "ingot-doctor", 1)
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return nil, name, err
	}
	if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip.IsUnspecified() {
		host = "localhost"
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	d := tls.Dialer{Config: &tls.Config{MinVersion: tls.VersionTLS13, ServerName: name,
		InsecureSkipVerify: true}} // it is compared with the file
	c, err := d.DialContext(ctx, "tcp", net.JoinHostPort(host, port))
	if err != nil {
		return nil, name, err
	}
	defer c.Close()
	return c.(*tls.Conn).ConnectionState().PeerCertificates[0], name, nil
}

// examineProvider checks the login provider. Without it, operators log in by tokens.
func examineProvider(ctx context.Context, c config.API) (list []Finding) {
	const check = "login provider"
	o := bootserver.LoginProvider(c)
	if o == nil {
		return nil
	}
	if _, err := o.Secret(); err != nil {
		list = append(list, found(check, Error, "write the client's secret into that file, for the server's user", "%v", err))
	}
	if info, err := os.Stat(c.OIDC.ClientSecretFile); err == nil && info.Mode().Perm()&0o007 != 0 {
		list = append(list, found(check, Error,
			"chmod 600 "+c.OIDC.ClientSecretFile+"; replace it if others may have read it",
			"the client's secret can be read by every user of this host (mode %04o)", info.Mode().Perm()))
	}
	if err := login.Check(ctx, o, time.Now()); err != nil {
		return append(list, found(check, Warning, "check its address, this host's DNS and routes; tokens work meanwhile",
			"%v",
			err))
	}
	if len(list) == 0 {
		list = append(list, found(check, OK, "", "%s answers; browsers come back to %s%s", o.Issuer, o.Origins[0],
			login.CallbackPath))
	}
	return list
}
