package weburl

import (
	"errors"
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"
)

func parse(t *testing.T, raw string) *url.URL {
	u, err := url.Parse(raw)
	require.NoError(t, err)
	return u
}

func TestSame(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"https://host/a", "https://host/b?c", true},
		{"https://host/", "https://host:443/", true},
		{"https://host", "HTTPS://HOST:", true},
		{"http://host:80", "http://host", true},
		{"https://[::1]:443", "https://[::1]", true},
		{"https://u:p@host", "https://host", true},
		{"https://host", "http://host", false},
		{"https://host:443", "http://host:443", false},
		{"https://host:80", "https://host", false},
		{"http://host:443", "http://host", false},
		{"https://host:8443", "https://host", false},
		{"https://host", "https://host.example", false},
		{"https://host", "https://a.host", false},
		{"https://host", "https://host.", false},
		{"https://host", "https://host@other", false},
		{"https://[::443]", "https://[:]", false},
	} {
		a, err := url.Parse(c.a)
		require.NoError(t, err)
		b, err := url.Parse(c.b)
		if err != nil {
			continue
		}
		require.Equal(t, c.want, Same(a, b), "%s %s", c.a, c.b)
		require.Equal(t, c.want, Same(b, a), "%s %s", c.b, c.a)
	}
}

func TestShown(t *testing.T) {
	require.Equal(t, "https://host:1/path", Shown(parse(t, "https://SECRET:SECRET@host:1/path?SECRET#SECRET")))
	require.Equal(t, "https://host", Shown(parse(t, "https://host")))
	require.Equal(t, "s3://…", Shown(parse(t, "s3://AKIA:/SECRET@bucket")))
	require.Equal(t, "https://…", Shown(parse(t, "https:///u:SECRET@host")))
	require.Equal(t, "https://…", Shown(parse(t, "https://SECRET?x@host")))
	require.Equal(t, "https://…", Shown(parse(t, "https://SECRET#x@host")))
	require.Equal(t, "https:", Shown(parse(t, "https:u:SECRET@host")))
}

func TestDiscreet(t *testing.T) {
	require.NoError(t, Discreet(nil))
	for said, want := range map[string]string{
		"plain":                            "plain",
		"https://host/path":                "https://host/path",
		"mail a@host":                      "mail a@host",
		"GET https://host/a?SECRET: EOF":   "GET https://host/a?… EOF",
		`GET "https://u:SECRET@host/a": 4`: `GET "https://…@host/a": 4`,
		`"https://SECRET@host/a?SECRET" "https://SECRET@host?SECRET"`: `"https://…@host/a?…" "https://…@host?…"`,
		"https://u:SE@CRET@host/a@b":                                  "https://…@b",
		`once \"https://host/a?SE\"CRET\" and`:                        `once \"https://host/a?… and`,
		`open "s3://AKIA:SE/CRET@bucket": port`:                       `open "s3://…@bucket": port`,
		`open s3://AKIA:SE?CRET@bucket: port`:                         `open s3://… port`,
		`open s3://AKIA:SE"CRET@bucket: port`:                         `open s3://…@bucket: port`,
		`open "s3://AKIA:SE#CRET@bucket": port`:                       `open "s3://…": port`,
		`https://u:SECRET@host/a?SECRET@SECRET`:                       `https://…`,
		`s3://b?region=R&bogus="SECRET": no`:                          `s3://b?… no`,
		`Get "https://host/a b?SECRET \"SECRET\" SECRET": EOF`:        `Get "https://host/a b?…": EOF`,
		`{"at":"https://host/a#SECRET","why":"denied"}`:               `{"at":"https://host/a#…","why":"denied"}`,
		`open https:/u:SECRET@host/a: no`:                             `open https:/…@host/a: no`,
		`open https:u:SECRET@host/a: no`:                              `open https:…@host/a: no`,
		`open https:/u:SEC/RET@host/a: no`:                            `open https:/…@host/a: no`,
		`open HTTPS:/u:SECRET@host/a oci:/u:SECRET@host/a: no`:        `open HTTPS:/…@host/a oci:/…@host/a: no`,
		`/usr/x.go:12 C:/a@b x:y@z`:                                   `/usr/x.go:12 C:/a@b x:y@z`,
		`https://host/a?`:                                             `https://host/a?`,
	} {
		err := errors.New(said)
		got := Discreet(err)
		require.Equal(t, want, got.Error())
		require.ErrorIs(t, got, err)
	}
}

func TestMistyped(t *testing.T) {
	for text, want := range map[string]bool{
		"https:/u:SECRET@host": true, "https:u:SEC/RET@host": true, "bazel+HTTPS:u:SECRET@host": true, "s:3/u@host": false, "app:1@2.bundle": false, "./a:b@c": false, "/backups/app:1@2": false, "C:/a@b": false, "": false,
	} {
		require.Equal(t, want, Mistyped(text), text)
	}
}
