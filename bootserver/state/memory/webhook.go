package memory

import (
	"ingot/bootserver/state/record"
	"ingot/bootserver/state/view"
)

// addWebhooks adds the webhooks that are stored to a view.
func addWebhooks(v *view.View, d *data) error {
	if err := addEach(d, view.Webhooks, record.DecodeWebhook, v.AddWebhook); err != nil {
		return err
	}
	if err := addEach(d, view.Progress, record.DecodeProgress, v.AddProgress); err != nil {
		return err
	}
	return addEach(d, view.Letters, record.DecodeLetter, v.AddLetter)
}

func addEach[T any](d *data, t view.Table, decode func([]byte) (T, error), add func(T)) error {
	for _, b := range d.Records[t] {
		v, err := decode(b)
		if err != nil {
			return err
		}
		add(v)
	}
	return nil
}

// touchWebhooks touches the entries of indexes that the webhooks and dead letters of a step are in.
func (s *Store) touchWebhooks(step view.Step) {
	for k := range step.Puts {
		switch k.Table {
		case view.Webhooks:
			s.touch(view.Key{Table: view.Numbers, Key: view.WebhooksKey})
		case view.Letters:
			s.touch(view.Key{Table: view.ByWebhook, Key: view.LetterOf(k.Key)})
		}
	}
}
