package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ingot/bootserver/api"
	"ingot/bootserver/fleet/webhook"
	"ingot/cmd/ingot/command"
	"ingot/cmd/ingot/show"
	"ingot/internal/count"
)

func (a *app) webhookCommand() *cobra.Command {
	return command.Parent("webhook", "send events to other programs by signed HTTP requests",
		"  ingot webhook create siem https://siem.example.org/ingot\n  ingot webhook show siem",
		a.webhookCreateCommand(), a.webhookLsCommand(), a.webhookShowCommand(), a.webhookEditCommand(),
		a.webhookTestCommand(), a.webhookRedeliverCommand(), a.webhookPauseCommand(),
		a.webhookResumeCommand(), a.webhookRmCommand())
}

const webhookCreateLong = `Send what happens from now on to a URL: each event as one POST with JSON, signed by
HMAC-SHA256 in the style of Standard Webhooks. The secret of the signatures is printed once. Scope:
admin. docs/WEBHOOKS.md lists the events, their JSON, and how to verify a signature.

--events takes topics (boot, machine, rollout, image, server, packet, audit) and codes of events
(boot-ended). Events come in their order, and again until the receiver answers 2xx: drop those
whose webhook-id was there before. What is refused for too long becomes a dead letter, see: ingot
webhook show.

Redirects are not followed, and no proxy is used. The certificate of the receiver must be valid by
the CAs of the server's system, or by --ca. A receiver on the server itself, or with a link-local
address, must be allowed by its address: those services trust whoever reaches them.`

func (a *app) webhookCreateCommand() *cobra.Command {
	var q api.WebhookRequest
	var ca, secret string
	c := &cobra.Command{
		Use: "create NAME URL", Short: "send events to a URL, and print the secret of the signatures once",
		Long: webhookCreateLong,
		Example: `  ingot webhook create siem https://siem.example.org/ingot
  ingot webhook create pager https://pager.example.org/hook --events boot-ended,machine-held,rollout
  ingot webhook create rack1 https://10.0.0.5/hook --selector rack=r1 --ca ca.pem
  ingot webhook create local http://127.0.0.1:9000/ --allow 127.0.0.1`,
		Args: command.ExactArgs("NAME", "URL"),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			q.Name, q.URL = args[0], args[1]
			if q.CA, err = textOf(ca); err != nil {
				return err
			}
			if q.Secret, err = textOf(secret); err != nil {
				return err
			}
			q.Secret = strings.TrimSpace(q.Secret)
			return a.webhookCreate(cmd.Context(), q)
		},
	}
	fl := c.Flags()
	fl.StringSliceVar(&q.Events, "events", nil, "topics and codes of events (default: boot, machine, rollout, image)")
	fl.StringVar(&q.Selector, "selector", "", "of machines, only those with such labels: rack=r1,role!=db (default: all)")
	fl.StringVar(&ca, "ca", "", "file with the certificates of the CA of the receiver, in PEM (default: the system's)")
	fl.StringSliceVar(&q.Allow, "allow", nil, "loopback and link-local addresses or prefixes that the receiver may have")
	fl.StringVar(&secret, "secret-file", "", "file with a secret of the receiver, whsec_BASE64 (default: a new one)")
	return c
}

func (a *app) webhookEditCommand() *cobra.Command {
	var url, selector, ca, secret string
	var events, allow []string
	var overlap time.Duration
	var q api.EditWebhookRequest
	c := &cobra.Command{
		Use: "edit NAME", Short: "change a webhook, or its secret",
		Long: `Change what a webhook gets, where it goes, or by which secret it is signed. It goes on where it
was: no event is lost or sent twice. What is not given stays as it is.

After --new-secret, which prints the secret once, or --secret-file, requests have two signatures
for a day (--overlap): one by the new secret and one by the former one, so that the receiver can be
changed in that time. --overlap 0s ends that at once, for a secret that is known to others.`,
		Example: `  ingot webhook edit siem --url https://siem2.example.org/ingot
  ingot webhook edit pager --events boot-ended,rollout --selector role=db
  ingot webhook edit siem --new-secret --overlap 48h`,
		Args: command.ExactArgs("NAME"),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			given := func(flag string) bool { return cmd.Flags().Changed(flag) }
			if given("url") {
				q.URL = &url
			}
			if given("selector") {
				q.Selector = &selector
			}
			if given("allow") {
				q.Allow = &allow
			}
			if given("overlap") {
				q.Overlap = &overlap
			}
			if given("ca") {
				text, err := textOf(ca)
				if err != nil {
					return err
				}
				q.CA = &text
			}
			q.Events = events
			if q.Secret, err = textOf(secret); err != nil {
				return err
			}
			q.Secret = strings.TrimSpace(q.Secret)
			return a.webhookEdit(cmd.Context(), args[0], q)
		},
	}
	fl := c.Flags()
	fl.StringVar(&url, "url", "", "where events go")
	fl.StringSliceVar(&events, "events", nil, "topics and codes of events")
	fl.StringVar(&selector, "selector", "", "of machines, only those with such labels; empty: all")
	fl.StringVar(&ca, "ca", "", "file with the certificates of the CA of the receiver, in PEM; empty: the system's")
	fl.StringSliceVar(&allow, "allow", nil, "loopback and link-local addresses or prefixes that the receiver may have")
	fl.BoolVar(&q.NewSecret, "new-secret", false, "draw a new secret, and print it once")
	fl.StringVar(&secret, "secret-file", "", "file with a new secret of the receiver, whsec_BASE64")
	fl.DurationVar(&overlap, "overlap", webhook.Overlap, "how long the former secret signs as well")
	c.MarkFlagsMutuallyExclusive("new-secret", "secret-file")
	c.MarkFlagsOneRequired("url", "events", "selector", "ca", "allow", "new-secret", "secret-file")
	return c
}

// webhookEdit prints a new secret alone on standard output, for a pipe, and everything else on standard error.
func (a *app) webhookEdit(ctx context.Context, name string, q api.EditWebhookRequest) error {
	made, err := a.Client().EditWebhook(ctx, name, q)
	if err != nil {
		return err
	}
	if err := a.Show(made, func(w io.Writer) {
		if made.Secret != "" {
			fmt.Fprintln(w, made.Secret)
		}
	}); err != nil {
		return err
	}
	fmt.Fprintf(a.Stderr, "webhook %s sends to %s: %s\n", show.Plain(made.Name), show.Plain(made.URL),
		strings.Join(made.Events, ", "))
	switch {
	case !q.NewSecret && q.Secret == "":
	case made.FormerUntil.IsZero():
		fmt.Fprintln(a.Stderr, "the former secret is not used any more")
	default:
		fmt.Fprintf(a.Stderr, "the former secret signs as well until %s\n", made.FormerUntil.Local().Format(time.DateTime))
	}
	fmt.Fprintf(a.Stderr, "  → ingot webhook test %s\n", made.Name)
	return nil
}

// textOf reads a file that was named; no name is no text.
func textOf(file string) (string, error) {
	if file == "" {
		return "", nil
	}
	const most = 64 << 10
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, most))
	return string(text), err
}

// webhookCreate prints the secret alone on standard output, for a pipe, and everything else on standard
// error.
func (a *app) webhookCreate(ctx context.Context, q api.WebhookRequest) error {
	made, err := a.Client().CreateWebhook(ctx, q)
	if err != nil {
		return err
	}
	if err := a.Show(made, func(w io.Writer) {
		if made.Secret != "" {
			fmt.Fprintln(w, made.Secret)
		}
	}); err != nil {
		return err
	}
	fmt.Fprintf(a.Stderr, "webhook %s gets: %s\n", show.Plain(made.Name), strings.Join(made.Events, ", "))
	if made.Secret != "" {
		fmt.Fprintln(a.Stderr, "the secret is not shown again")
	}
	if !made.Encrypted {
		fmt.Fprintln(a.Stderr, "events are signed, but not encrypted: the URL is not https")
	}
	fmt.Fprintf(a.Stderr, "  → ingot webhook test %s\n", made.Name)
	return nil
}

func (a *app) webhookLsCommand() *cobra.Command {
	return &cobra.Command{
		Use: "ls", Short: "list webhooks, and how they are", Args: command.ExactArgs(), Example: "  ingot webhook ls",
		RunE: func(cmd *cobra.Command, _ []string) error {
			list, err := a.Client().Webhooks(cmd.Context())
			if err != nil {
				return err
			}
			return a.Show(list, func(w io.Writer) { webhookTable(w, list, time.Now()) })
		},
	}
}

func webhookTable(w io.Writer, list []api.Webhook, now time.Time) {
	if len(list) == 0 {
		fmt.Fprintln(w, "no webhooks\n  → ingot webhook create NAME URL")
		return
	}
	t := show.Table(w)
	show.Row(t, "NAME", "STATE", "EVENTS", "SENT", "LAST", "DEAD", "URL")
	for _, x := range list {
		show.Row(t, x.Name, x.State, strings.Join(x.Events, ","), fmt.Sprint(x.Sent), show.Ago(x.SentAt, now),
			fmt.Sprint(x.Dead), x.URL)
	}
	t.Flush()
}

func (a *app) webhookShowCommand() *cobra.Command {
	return &cobra.Command{
		Use: "show NAME", Short: "show a webhook, why it fails, and its dead letters",
		Long: `Show what a webhook gets, how far the ledger was sent to it, why the last attempt failed and when
the next one is made, and its dead letters: events that were given up. They can be sent again with:
ingot webhook redeliver`,
		Example: "  ingot webhook show siem\n  ingot webhook show siem -o json | jq '.letters[].event'",
		Args:    command.ExactArgs("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			x, err := a.Client().Webhook(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return a.Show(x, func(w io.Writer) { webhookText(w, x, time.Now()) })
		},
	}
}

// webhookText describes a webhook.
func webhookText(w io.Writer, x api.Webhook, now time.Time) {
	t := show.Table(w)
	line := func(name, value string) {
		if value != "" {
			show.Row(t, name, value)
		}
	}
	line("name", x.Name)
	line("id", x.ID)
	line("url", x.URL)
	line("events", strings.Join(x.Events, ", "))
	line("selector", x.Selector)
	for _, p := range x.Allow {
		line("allowed", p.String())
	}
	if x.CA != "" {
		line("CA", "its own")
	}
	line("created", show.Ago(x.Created, now)+" by "+x.By)
	line("state", x.State)
	if p := x.Paused; p != nil {
		by := p.By
		if by == "" {
			by = "the server"
		}
		line("paused", fmt.Sprintf("%s by %s%s", show.Ago(p.At, now), by, because(p.Why)))
	}
	line("sent", fmt.Sprintf("%s, the last %s", count.Of(int(x.Sent), "event"), show.Ago(x.SentAt, now)))
	line("behind", count.Of(int(x.Behind), "entry")+" of the ledger")
	line("unusable", x.Unusable)
	if f := x.Last; f != nil {
		line("failing", fmt.Sprintf("%s in a row, the last %s: %s", count.Of(x.Failures, "attempt"), show.Ago(f.At, now),
			f.Why))
	}
	if d := x.Next.Sub(now); d > 0 && x.Paused == nil {
		line("next attempt", "in "+show.Brief(d))
	}
	if g := x.Gap; g != nil {
		line("gap", fmt.Sprintf("entries %d to %d of the ledger are not sent (%s)", g.From, g.To, g.Reason))
	}
	line("dead letters", deadCount(x))
	t.Flush()
	letterTable(w, x, now)
}

func because(why string) string {
	if why == "" {
		return ""
	}
	return ": " + why
}

func deadCount(x api.Webhook) string {
	if x.Dropped == 0 {
		return fmt.Sprint(x.Dead)
	}
	return fmt.Sprintf("%d, and %d that were removed undelivered", x.Dead, x.Dropped)
}

func letterTable(w io.Writer, x api.Webhook, now time.Time) {
	if len(x.Letters) == 0 {
		return
	}
	fmt.Fprintln(w)
	t := show.Table(w)
	show.Row(t, "EVENT", "CODE", "MACHINE", "HAPPENED", "ATTEMPTS", "WHY")
	for _, l := range x.Letters {
		why := l.Failure.Why
		if l.Again {
			why = "is being sent again"
		}
		show.Row(t, l.Event, l.Code, show.Dash(string(l.Machine)), show.Ago(l.At, now), fmt.Sprint(l.Attempts), why)
	}
	t.Flush()
	fmt.Fprintf(w, "  → ingot webhook redeliver %s\n", show.Plain(x.Name))
}

func (a *app) webhookTestCommand() *cobra.Command {
	return &cobra.Command{
		Use: "test NAME", Short: "send a test to a webhook, once, and print the answer",
		Long: `Send an event of type webhook-test, signed as others are, and wait for the answer, up to 10 seconds.
It is sent once, whatever the answer is, and also while the webhook is paused.`,
		Example: "  ingot webhook test siem", Args: command.ExactArgs("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := a.Client().TestWebhook(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if err := a.Show(r, func(w io.Writer) {
				if r.OK {
					fmt.Fprintf(w, "answer %d after %s\n", r.Status, r.Took.Round(time.Millisecond))
				}
			}); err != nil || r.OK {
				return err
			}
			return fmt.Errorf("sending a test to webhook %q: %s", args[0], r.Why)
		},
	}
}

func (a *app) webhookRedeliverCommand() *cobra.Command {
	var discard bool
	c := &cobra.Command{
		Use: "redeliver NAME [EVENT...]", Short: "send dead letters of a webhook again",
		Long: `Send dead letters again, all of them or those with these ids, each once, before other events and
not in the order in which they happened. Those that are accepted are removed. An event that the
ledger does not have any more is removed as well. What waits to be sent is tried at once, too.`,
		Example: "  ingot webhook redeliver siem\n  ingot webhook redeliver siem --discard",
		Args:    command.LeastArgs("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if discard {
				if len(args) > 1 {
					return show.Usagef("--discard removes all dead letters: name the webhook alone")
				}
				x, err := a.Client().DiscardDeadLetters(cmd.Context(), args[0])
				return a.webhookDone(x, err, "has no dead letters any more")
			}
			x, err := a.Client().RedeliverWebhook(cmd.Context(), args[0], args[1:])
			if x.Paused != nil {
				return a.webhookDone(x, err, "is paused, and gets them after: ingot webhook resume "+args[0])
			}
			return a.webhookDone(x, err, "gets them again; see: ingot webhook show "+args[0])
		},
	}
	c.Flags().BoolVar(&discard, "discard", false, "remove all dead letters without sending them")
	return c
}

// webhookDone prints a webhook that was changed.
func (a *app) webhookDone(x api.Webhook, err error, is string) error {
	if err != nil {
		return err
	}
	return a.Show(x, func(w io.Writer) { fmt.Fprintf(w, "webhook %s %s\n", show.Plain(x.Name), show.Plain(is)) })
}

func (a *app) webhookPauseCommand() *cobra.Command {
	var why string
	c := &cobra.Command{
		Use: "pause NAME", Short: "send nothing to a webhook until it is resumed",
		Long: `Send nothing to a webhook until: ingot webhook resume. It goes on where it was, as long as the ledger
has what happened meanwhile (90 days and a million entries at most).`,
		Example: "  ingot webhook pause siem --why maintenance", Args: command.ExactArgs("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			x, err := a.Client().PauseWebhook(cmd.Context(), args[0], why)
			return a.webhookDone(x, err, "is paused")
		},
	}
	c.Flags().StringVar(&why, "why", "", "reason, shown with the webhook")
	return c
}

func (a *app) webhookResumeCommand() *cobra.Command {
	var q api.ResumeWebhookRequest
	c := &cobra.Command{
		Use: "resume NAME", Short: "go on sending events to a webhook, and try at once",
		Long: `Go on with a webhook that was paused, or try at once one that fails. With --skip it goes on with what
happens from now on; the receiver gets an event of type webhook-gap about what it misses.`,
		Example: "  ingot webhook resume siem\n  ingot webhook resume siem --skip", Args: command.ExactArgs("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			x, err := a.Client().ResumeWebhook(cmd.Context(), args[0], q)
			return a.webhookDone(x, err, "is resumed")
		},
	}
	c.Flags().BoolVar(&q.Skip, "skip", false, "do not send what has happened until now")
	return c
}

func (a *app) webhookRmCommand() *cobra.Command {
	return &cobra.Command{
		Use: "rm NAME", Short: "remove a webhook, and its dead letters",
		Long: `Send no more events to a webhook, and forget it. Its secret cannot be used any more; a webhook that is
made again has another one.`,
		Example: "  ingot webhook rm siem", Args: command.ExactArgs("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			x, err := a.Client().RemoveWebhook(cmd.Context(), args[0])
			return a.webhookDone(x, err, "is removed")
		},
	}
}
