package record

import (
	"reflect"
	"testing"
	"time"
)

// fill sets every field of a value to something that is not zero, so that a record without one of
// them is found.
func fill(v reflect.Value, depth int) {
	if v.Type() == reflect.TypeFor[time.Time]() {
		v.Set(reflect.ValueOf(time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)))
		return
	}
	if v.CanAddr() {
		u, is := v.Addr().Interface().(interface{ UnmarshalText([]byte) error })
		if is && u.UnmarshalText([]byte("10.0.0.1")) == nil {
			return
		}
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				fill(v.Field(i), depth+1)
			}
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), depth+1)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0), depth+1)
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(key, depth+1)
		fill(value, depth+1)
		v.SetMapIndex(key, value)
	case reflect.String:
		v.SetString("x")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Float32, reflect.Float64:
		v.SetFloat(1.5)
	case reflect.Interface:
		v.Set(reflect.ValueOf("x"))
	default:
		if v.CanInt() {
			v.SetInt(7)
		} else if v.CanUint() {
			v.SetUint(7)
		}
	}
}

// roundTrip encodes a value with every field set, and decodes it.
func roundTrip[T any](t *testing.T, decode func([]byte) (T, error)) {
	t.Helper()
	var is T
	fill(reflect.ValueOf(&is).Elem(), 0)
	text, err := Encode(is)
	if err != nil {
		t.Fatalf("%T: %v", is, err)
	}
	got, err := decode(text)
	if err != nil || !reflect.DeepEqual(got, is) {
		t.Errorf("%T is stored as\n%s\nand comes back as\n%+v, %v\nwant\n%+v", is, text, got, err, is)
	}
}

// TestRecordsHaveEveryField: nothing of what is remembered is lost in its record.
func TestRecordsHaveEveryField(t *testing.T) {
	roundTrip(t, DecodeMachine)
	roundTrip(t, DecodeBoot)
	roundTrip(t, DecodeLease)
	roundTrip(t, DecodeCredential)
	roundTrip(t, DecodeSession)
	roundTrip(t, DecodeChange)
	roundTrip(t, DecodeRollout)
	roundTrip(t, DecodeMember)
	roundTrip(t, DecodeWebhook)
	roundTrip(t, DecodeProgress)
	roundTrip(t, DecodeLetter)
	roundTrip(t, DecodeDesired)
}
