package dhcp6

import (
	"bytes"
	"errors"

	"github.com/insomniacslk/dhcp/dhcpv6"

	"ingot/bootserver/client"
)

// trialDUID is the DUID of a client that does not exist: of type 2, with the enterprise
// number 0, which nobody has (RFC 8415 section 11.3).
var trialDUID = append([]byte{0, 2, 0, 0, 0, 0}, "ingot-trial"...)

// NewTrial returns an Information-request that is answered without an address, and not
// recorded.
func NewTrial() (*dhcpv6.Message, error) {
	m, err := dhcpv6.NewMessage()
	if err != nil {
		return nil, err
	}
	m.MessageType = dhcpv6.MessageTypeInformationRequest
	m.AddOption(raw(dhcpv6.OptionClientID, trialDUID))
	m.AddOption(dhcpv6.OptElapsedTime(0))
	return m, nil
}

// isTrial reports whether a message is of NewTrial.
func isTrial(m *dhcpv6.Message) bool {
	id := m.GetOneOption(dhcpv6.OptionClientID)
	return id != nil && bytes.Equal(id.ToBytes(), trialDUID)
}

// answerTrial answers NewTrial.
func (r *request) answerTrial() *Reply {
	if len(r.chain) > 0 || !r.From.Addr().IsLinkLocalUnicast() || r.Served.Config.mode() == Observe ||
		r.m.MessageType != dhcpv6.MessageTypeInformationRequest {
		return nil
	}
	return r.reply(Answer(r.m, dhcpv6.MessageTypeReply, r.duid, client.Client{Kind: client.System},
		Settings{Server: r.Address, Proxy: true}))
}

// ErrNoAnswer is returned by ReadAnswer for packets that are no answers.
var ErrNoAnswer = errors.New("not an answer to the message")

// ReadAnswer reads a server's answer to a message.
func ReadAnswer(b []byte, to *dhcpv6.Message) (*dhcpv6.Message, error) {
	m, err := dhcpv6.MessageFromBytes(b)
	if err != nil {
		return nil, err
	}
	if m.TransactionID != to.TransactionID || m.MessageType != dhcpv6.MessageTypeReply {
		return nil, ErrNoAnswer
	}
	return m, nil
}
