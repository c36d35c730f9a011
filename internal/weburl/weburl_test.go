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
		"https://u:SE@CRET@host/a@b":                                  "https://…@host/a@b",
		`once \"https://host/a?SE\"CRET\" and`:                        `once \"https://host/a?… and`,
	} {
		err := errors.New(said)
		got := Discreet(err)
		require.Equal(t, want, got.Error())
		require.ErrorIs(t, got, err)
	}
}
