package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"ingot/bootserver/api"
	"ingot/cmd/ingot/command"
	"ingot/cmd/ingot/show"
)

func (a *app) auditCommand() *cobra.Command {
	var follow bool
	var limit int
	c := &cobra.Command{
		Use: "audit", Short: "list changes by operators: time, actor, old and new values",
		Long: `Print the audit log: every change by an operator, who made it, and the old and new values. With
-o json, each line is one object. A change and its line are one transaction. The log keeps the
last 100,000 changes.`,
		Example: `  ingot audit
  ingot audit -f -o json | jq .who.name`,
		Args: command.ExactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.audit(cmd.Context(), follow, limit) },
	}
	c.Flags().BoolVarP(&follow, "follow", "f", false, "print new changes as they come, until interrupted")
	c.Flags().IntVarP(&limit, "lines", "n", 50, "number of latest changes to begin with (1 to 10000)")
	return c
}

func (a *app) audit(ctx context.Context, follow bool, limit int) error {
	if limit < 1 || limit > 10_000 {
		return show.Usagef("bad number of lines --lines %d: want 1 to 10000", limit)
	}
	c := a.Client()
	list, err := c.Audit(ctx, 0, true, limit)
	if err != nil {
		return err
	}
	var last uint64
	for {
		for _, e := range list {
			last = e.Seq
			if err := a.printChange(e); err != nil {
				return err
			}
		}
		if !follow {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Second):
		}
		if list, err = c.Audit(ctx, last, false, 1000); err != nil {
			if ctx.Err() != nil {
				return nil //nolint:nilerr // interrupted
			}
			return err
		}
	}
}

func (a *app) printChange(e api.AuditEntry) error {
	if a.JSON() {
		return a.ShowLine(e)
	}
	_, err := fmt.Fprintln(a.Stdout, show.Plain(changeLine(e)))
	return err
}

// changeLine is one change in one line: time, actor, action, and the differences.
func changeLine(e api.AuditEntry) string {
	line := fmt.Sprintf("%s  %s  %s", e.At.Local().Format("2006-01-02 15:04:05"), e.Who, e.Action)
	if on := e.Name; on != "" || e.On != "" {
		if on == "" {
			on = e.On
		}
		line += " " + on
	}
	names := map[string]bool{}
	for k := range e.From {
		names[k] = true
	}
	for k := range e.To {
		names[k] = true
	}
	for i, k := range sortedKeys(names) {
		if i == 0 {
			line += ":"
		}
		line += " " + k + " " + brieflyJSON(e.From[k]) + " → " + brieflyJSON(e.To[k])
	}
	return line
}

func sortedKeys(m map[string]bool) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func brieflyJSON(v any) string {
	if v == nil {
		return "-"
	}
	text, err := json.Marshal(v)
	if err != nil {
		return "?"
	}
	return string(text)
}
