package remote_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"time"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/remote"
)

// A build server has the private key and uploads; the machines of the fleet trust
// its public key and download.
func Example() {
	ctx := context.Background()
	key, err := remote.GenerateKey()
	if err != nil {
		log.Fatal(err)
	}
	h, err := remote.NewHandler(modcache.NewMemory(nil), &remote.HandlerOptions{WriteTokens: []string{"the build's token"}})
	if err != nil {
		log.Fatal(err)
	}
	srv := httptest.NewServer(h) // or nginx, a bucket, …
	defer srv.Close()
	url := srv.URL

	build, err := remote.New(url, &remote.Options{
		Signer: key,
		Header: http.Header{"Authorization": {"Bearer the build's token"}},
	})
	if err != nil {
		log.Fatal(err)
	}
	id := modcache.Key{1}
	if err := build.Add(ctx, id, modcache.NewArtifact([]byte("machine code"), modcache.Info{})); err != nil {
		log.Fatal(err)
	}
	if err := build.Flush(ctx); err != nil { // uploads run in the background
		log.Fatal(err)
	}
	_ = build.Close()

	// A Cache over such a store finds what the build has uploaded.
	node, err := remote.New(url, &remote.Options{
		Keyring:   remote.Keyring{Keys: []remote.PublicKey{key.Public()}},
		FirstByte: time.Minute, // the defaults give up sooner, and the module is compiled
		Stall:     time.Minute,
	})
	if err != nil {
		log.Fatal(err)
	}
	defer node.Close()
	a, ok, err := node.Get(ctx, id)
	if err != nil || !ok {
		log.Fatal(ok, err)
	}
	b, _ := a.Bytes()
	fmt.Printf("%s\n", b)
	fmt.Println(errors.Is(node.Add(ctx, id, a), modcache.ErrReadOnly))
	// Output:
	// machine code
	// true
}

func ExampleParseKeyring() {
	key, err := remote.GenerateKey()
	if err != nil {
		log.Fatal(err)
	}
	old, err := remote.GenerateKey()
	if err != nil {
		log.Fatal(err)
	}
	file := fmt.Sprintf(`
# The keys whose machine code this fleet runs.
%v # build server, since March
%v # build server, before
revoked %v # its disk was sold
`, key.Public(), old.Public(), old.Public().ID())

	ring, err := remote.ParseKeyring([]byte(file))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(len(ring.Keys), "trusted,", len(ring.Revoked), "revoked")
	// Output: 2 trusted, 1 revoked
}

// A Handler over a directory is a server for a small fleet.
func ExampleNewHandler() {
	dir, err := os.MkdirTemp("", "modcache")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	disk, err := modcache.OpenDisk(dir, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer disk.Close()
	h, err := remote.NewHandler(disk, &remote.HandlerOptions{
		WriteTokens:  []string{"a long random token"},
		MaxDownloads: 20, // what the network carries in time
	})
	if err != nil {
		log.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/modcache/", h)

	srv := httptest.NewServer(mux) // an http.Server with timeouts and TLS in earnest
	defer srv.Close()
	r, err := http.Get(srv.URL + "/modcache/" + modcache.Key{}.String())
	if err != nil {
		log.Fatal(err)
	}
	defer r.Body.Close()
	fmt.Println(r.Status)
	// Output: 404 Not Found
}

// A bucket of S3. Credentials come from whatever the program uses to find them.
func ExampleS3() {
	key, err := remote.GenerateKey()
	if err != nil {
		log.Fatal(err)
	}
	s, err := remote.New("https://s3.eu-central-1.amazonaws.com", &remote.Options{
		Layout: remote.S3{
			Bucket: "example-modcache", Region: "eu-central-1", Prefix: "fleet/",
			Credentials: func(context.Context) (remote.Credentials, error) {
				return remote.Credentials{AccessKey: "id", SecretKey: "secret"}, nil
			},
		},
		Keyring: remote.Keyring{Keys: []remote.PublicKey{key.Public()}},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer s.Close() // no request was made so far
	fmt.Println(s.Metrics().Lookups)
	// Output: 0
}

// The usual machine of a fleet: a directory of its own, and a server behind it.
func ExampleOpenFleet() {
	ctx := context.Background()
	key, err := remote.GenerateKey() // its public half came with the configuration
	if err != nil {
		log.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "fleet") // "" is the directory of modcache.Open
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	fleet, err := remote.OpenFleet(dir, "https://cache.example/modcache", &remote.FleetOptions{
		Remote: remote.Options{Keyring: remote.Keyring{Keys: []remote.PublicKey{key.Public()}}},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer fleet.Close(ctx)
	r, err := fleet.NewRuntime(ctx, nil) // a wazero.Runtime
	if err != nil {
		log.Fatal(err)
	}
	defer r.Close(ctx)
	for _, l := range fleet.Layers() {
		fmt.Println(l.Name)
	}
	// Output:
	// disk
	// remote
}
