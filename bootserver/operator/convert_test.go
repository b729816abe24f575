package operator

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"ingot/bootserver/fleet"
)

// fill sets every exported field of a value to something that is not zero.
func fill(v reflect.Value) {
	if v.Type() == reflect.TypeFor[time.Time]() {
		v.Set(reflect.ValueOf(time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)))
		return
	}
	if v.CanAddr() {
		if u, is := v.Addr().Interface().(interface{ UnmarshalText([]byte) error }); is &&
			u.UnmarshalText([]byte("10.0.0.1")) == nil {
			return
		}
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				fill(v.Field(i))
			}
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem())
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0))
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(key)
		fill(value)
		v.SetMapIndex(key, value)
	case reflect.String:
		v.SetString("x")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Float64:
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

// sameJSON checks that an answer of the API has all that the value of package fleet has, under the
// names that it always had.
func sameJSON[F, T any](t *testing.T, convert func(F) T) {
	t.Helper()
	var from F
	fill(reflect.ValueOf(&from).Elem())
	for _, v := range []F{from, *new(F)} {
		one, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		other, err := json.Marshal(convert(v))
		if err != nil {
			t.Fatal(err)
		}
		var a, b any
		if json.Unmarshal(one, &a) != nil || json.Unmarshal(other, &b) != nil || !reflect.DeepEqual(a, b) {
			t.Errorf("%T is\n%s\nand is answered as\n%s", v, one, other)
		}
	}
}

// TestAnswersAreWhole: no field is lost or renamed on the way to the API.
func TestAnswersAreWhole(t *testing.T) {
	sameJSON(t, machineOf)
	sameJSON(t, bootOf)
	sameJSON(t, LeaseOf)
	sameJSON(t, OtherOf)
}

// TestEntriesAreWhole: an entry has the words of a Change, and the fields that programs go by.
func TestEntriesAreWhole(t *testing.T) {
	var c fleet.Change
	fill(reflect.ValueOf(&c).Elem())
	c.Code = fleet.CodeImageAssigned
	e := entryOf(c)
	fields := reflect.ValueOf(e)
	for i := range fields.NumField() {
		if name := fields.Type().Field(i).Name; fields.Field(i).IsZero() && name != "Bad" {
			t.Errorf("the entry of %+v has no %s", c, name)
		}
	}
	if e.Text != c.String() || e.Kind != string(fleet.KindDecision) {
		t.Errorf("the entry of %+v is %+v", c, e)
	}
}
