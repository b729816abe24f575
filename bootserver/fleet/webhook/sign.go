package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// The headers of a request (Standard Webhooks, "Webhook headers").
const (
	HeaderID        = "webhook-id"
	HeaderTimestamp = "webhook-timestamp" // of the attempt, seconds since 1970
	HeaderSignature = "webhook-signature"
)

// SecretPrefix is how the text of a secret begins, before its base64.
const SecretPrefix = "whsec_"

// Bounds of a secret in bytes.
const (
	MinSecret, MaxSecret = 24, 64
	NewSecret            = 32 // of one that ingot draws
)

// ErrSecret means that a text is not the secret of a webhook.
var ErrSecret = errors.New("not the secret of a webhook")

// FormatSecret returns the text of a secret.
func FormatSecret(key []byte) string { return SecretPrefix + base64.StdEncoding.EncodeToString(key) }

// ParseSecret parses what FormatSecret returns. Its error does not repeat the text.
func ParseSecret(text string) ([]byte, error) {
	rest, is := strings.CutPrefix(strings.TrimSpace(text), SecretPrefix)
	key, err := base64.StdEncoding.DecodeString(rest)
	if !is || err != nil || len(key) < MinSecret || len(key) > MaxSecret {
		return nil, fmt.Errorf("%w: write %s and %d to %d bytes in base64", ErrSecret, SecretPrefix, MinSecret, MaxSecret)
	}
	return key, nil
}

// Sign returns the signatures of a request, one by each key, with spaces between: HMAC-SHA256 of its id,
// timestamp and body, with dots between. One of them suffices a receiver.
func Sign(id string, at time.Time, body []byte, keys ...[]byte) string {
	var list []string
	for _, key := range keys {
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(id + "." + strconv.FormatInt(at.Unix(), 10) + "."))
		mac.Write(body)
		list = append(list, "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	}
	return strings.Join(list, " ")
}

// EventID returns the id of an event for a webhook. It is the same in each attempt, after a restart and
// after a restore, and no other event has it: sequence numbers alone mean another entry after a restore.
func EventID(webhook string, seq uint64, at time.Time, code string) string {
	h := sha256.New()
	h.Write([]byte(webhook + "\x00" + code + "\x00"))
	h.Write(binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, seq), uint64(at.UnixNano())))
	return "evt_" + hex.EncodeToString(h.Sum(nil)[:16])
}
