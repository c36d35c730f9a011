package remote_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache/internal/storetest"
	"github.com/modcache/modcache/remote"
)

func TestKeysText(t *testing.T) {
	k := generate(t)
	again, err := remote.ParsePrivateKey(k.Secret() + " # of the build server\n")
	require.NoError(t, err)
	require.Equal(t, k.Public(), again.Public())
	p, err := remote.ParsePublicKey(" " + k.Public().String() + "\t# comment")
	require.NoError(t, err)
	require.Equal(t, k.Public(), p)
	id, err := remote.ParseKeyID(p.ID().String())
	require.NoError(t, err)
	require.Equal(t, p.ID(), id)
	require.NotEqual(t, id, generate(t).Public().ID())
	require.Equal(t, strings.Fields(p.String())[2], base64.StdEncoding.EncodeToString(p.Ed25519()))

	seed := strings.Fields(k.Secret())[2]
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
		require.NotContains(t, fmt.Sprintf(verb, k), seed)
	}
	require.Contains(t, k.String(), id.String())

	bad := []string{"", "modcache-public-v1", k.Secret(), p.String()[1:], strings.Replace(p.String(), "=", "", 1),
		strings.Replace(p.String(), " ", " 0", 1), p.String()[:60] + "AAAA" + p.String()[64:],
		"modcache-public-v1 " + id.String() + " QUJD", strings.Replace(p.String(), id.String(), generate(t).Public().ID().String(), 1)}
	for _, line := range bad {
		_, err := remote.ParsePublicKey(line)
		require.Error(t, err, line)
		require.NotContains(t, err.Error(), seed)
		_, err = remote.ParsePrivateKey(strings.Replace(line, "public", "private", 1))
		if line != k.Secret() {
			require.Error(t, err, line)
		}
	}
	_, err = remote.ParsePrivateKey(p.String())
	require.Error(t, err)
}

func TestKeyringParse(t *testing.T) {
	a, b := generate(t).Public(), generate(t).Public()
	ring, err := remote.ParseKeyring([]byte(fmt.Sprintf("# fleet\n\n%v # build server\r\n  %v # new\nrevoked %v # lost laptop\n", a, b, a.ID())))
	require.NoError(t, err)
	require.Equal(t, remote.Keyring{Keys: []remote.PublicKey{a, b}, Revoked: []remote.KeyID{a.ID()}}, ring)

	ring, err = remote.ParseKeyring(nil)
	require.NoError(t, err)
	require.Equal(t, remote.Keyring{Keys: []remote.PublicKey{}}, ring, "not the zero one, with which a handler takes everything")
	for _, text := range []string{"revoked", "revoked 12", "trusted " + a.String(), a.String()[:80], strings.Repeat("x", 1<<17)} {
		_, err := remote.ParseKeyring([]byte("\n" + text))
		require.Error(t, err)
	}
	_, err = remote.ParseKeyring([]byte("\n\n" + generate(t).Secret()))
	require.ErrorContains(t, err, "private key (line 3")
}

// TestKeyringIsStrict refuses every line of which a part would go unread.
func TestKeyringIsStrict(t *testing.T) {
	k, id := generate(t).Public().String(), generate(t).Public().ID().String()
	for _, line := range []string{
		k + " revoked " + id, k + " build server", k + " " + k, "revoked " + id + " " + id, "revoked " + id + " lost",
		k + "\rrevoked " + id, k + " # new\rrevoked " + id, "# fleet\rrevoked " + id, "revoked " + id + "\r" + k,
		k + " # \vrevoked " + id, k + "\u0085revoked " + id, k + " # \u2028revoked " + id, k + "\x00", "\r\r",
	} {
		_, err := remote.ParseKeyring([]byte(k + "\n" + line + "\n" + k))
		require.ErrorContains(t, err, "line 2 of the keyring", "%q", line)
		if strings.HasPrefix(line, k) {
			_, err = remote.ParsePublicKey(line)
			require.Error(t, err, "%q", line)
		}
	}
	secret := generate(t).Secret()
	_, err := remote.ParsePrivateKey(secret + " of the build server")
	require.Error(t, err)
	require.NotContains(t, err.Error(), strings.Fields(secret)[2])
}

// TestSecretsStaySecret prints everything that holds one, in every way.
func TestSecretsStaySecret(t *testing.T) {
	k := generate(t)
	seed, err := base64.StdEncoding.DecodeString(strings.Fields(k.Secret())[2])
	require.NoError(t, err)
	const secret = "a secret, of 16 bytes or more"
	o := remote.Options{Secret: []byte(secret), Header: http.Header{"Authorization": {secret}}}
	h := remote.HandlerOptions{ReadTokens: []string{secret}, WriteTokens: []string{secret}, Signer: k}
	c := remote.Credentials{AccessKey: "access", SecretKey: secret, SessionToken: secret}
	type hidden struct{ k remote.PrivateKey }
	type stored struct{ s *remote.Store }
	for _, v := range []any{
		k, *k, hidden{*k}, &hidden{*k}, []remote.PrivateKey{*k}, o, &o, h, &h, c, &c, struct{ C remote.Credentials }{c},
		&remote.Options{Signer: k}, open(t, "http://localhost", &o), stored{open(t, "http://localhost", &o)}, open(t, "http://localhost", &remote.Options{Signer: k}),
	} {
		var out strings.Builder
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		b, _ := json.Marshal(v)
		out.Write(b)
		for _, handler := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
			slog.New(handler).Info("", "v", v)
		}
		for _, whole := range [][]byte{seed, []byte(secret)} {
			require.NotContains(t, out.String(), base64.StdEncoding.EncodeToString(whole)[:20], "%T", v)
			b := whole[4:20]
			for _, form := range []string{"%s", "%x", "%X"} {
				require.NotContains(t, out.String(), fmt.Sprintf(form, b), "%T", v)
			}
			require.NotContains(t, out.String(), strings.Trim(fmt.Sprintf("%d", b), "[]"), "%T", v)
			require.NotContains(t, out.String(), strings.TrimSuffix(strings.TrimPrefix(fmt.Sprintf("%#v", b), "[]byte{"), "}"), "%T", v)
		}
	}
	require.Contains(t, fmt.Sprintf("%v %+v %#v", *k, *k, *k), k.Public().ID().String())
	require.Contains(t, fmt.Sprintf("%+v", o), "Authorization")
}

func FuzzKeys(f *testing.F) {
	k, err := remote.GenerateKey()
	require.NoError(f, err)
	f.Add(k.Public().String())
	f.Add(k.Secret())
	f.Add("revoked " + k.Public().ID().String() + "\n" + k.Public().String() + " x")
	f.Fuzz(func(t *testing.T, text string) {
		if k, err := remote.ParsePublicKey(text); err == nil {
			again, err := remote.ParsePublicKey(k.String())
			require.NoError(t, err)
			require.Equal(t, k, again)
		}
		if k, err := remote.ParsePrivateKey(text); err == nil {
			again, err := remote.ParsePrivateKey(k.Secret())
			require.NoError(t, err)
			require.Equal(t, k.Public(), again.Public())
		}
		_, _ = remote.ParseKeyring([]byte(text))
	})
}

func TestKeysZero(t *testing.T) {
	var k remote.PrivateKey
	require.Equal(t, remote.PublicKey{}, k.Public())
	_, err := remote.ParsePrivateKey(k.Secret())
	require.Error(t, err)
	_, err = remote.ParsePublicKey(k.Public().String())
	require.ErrorContains(t, err, "never set")
	_, err = remote.ParseKeyring([]byte(k.Public().String()))
	require.ErrorContains(t, err, "line 1 of the keyring")
	_, err = remote.NewHandler(&storetest.Fake{}, &remote.HandlerOptions{Signer: &k})
	require.Error(t, err)
}

// TestKeysMissing refuses a store that couldn't verify what it reads.
func TestKeysMissing(t *testing.T) {
	k := generate(t)
	for _, o := range []*remote.Options{
		nil,
		{},
		{Keyring: remote.Keyring{Revoked: []remote.KeyID{k.Public().ID()}}},
		{Keyring: remote.Keyring{Keys: make([]remote.PublicKey, 1)}},
		{Secret: []byte("too short")},
		{Secret: make([]byte, 32), Signer: k},
		{Signer: &remote.PrivateKey{}},
	} {
		_, err := remote.New("http://localhost", o)
		require.Error(t, err)
		_, err = remote.NewWithBackend(newFake(), "fake", o)
		require.Error(t, err)
	}
	for _, url := range []string{"", "localhost:80", "ftp://host", "http://", "http://host/?q=1", "http://host/#x", "http://user:pass\x7f@host", "http://[::1"} {
		_, err := remote.New(url, &remote.Options{Signer: k})
		require.Error(t, err, url)
		require.NotContains(t, err.Error(), "pass")
	}
	_, err := remote.NewWithBackend(nil, "", &remote.Options{Signer: k})
	require.Error(t, err)
}

// TestKeysErrorsDontQuote has the secret of a key where something else belongs.
func TestKeysErrorsDontQuote(t *testing.T) {
	k, err := remote.GenerateKey()
	require.NoError(t, err)
	f := strings.Fields(k.Secret())
	seed := f[2]
	for _, line := range []string{f[0] + " " + seed + " " + f[1], f[0] + " " + seed + " # comment", f[0] + " " + seed + " x", seed} {
		_, err := remote.ParsePrivateKey(line)
		require.Error(t, err)
		require.NotContains(t, err.Error(), seed[:8])
	}
	public := strings.Fields(k.Public().String())[0]
	for _, text := range []string{"revoked " + seed, public + " " + seed + " x", f[0] + " " + seed} {
		_, err := remote.ParseKeyring([]byte(text + "\n"))
		require.Error(t, err)
		require.NotContains(t, err.Error(), seed[:8])
	}
}
